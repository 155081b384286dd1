# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a classifier on labelled images, by one or several processes.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from beitv2_cls.classes import printable
from beitv2_cls.prediction import logits
from beitv2_core.data import eval_batches
from beitv2_core.engine import distributed
from beitv2_core.errors import DataError
from beitv2_core.files.atomic import write_atomically, write_text_atomically
from beitv2_core.layers.collective import all_reduce_sum


class Accuracy(NamedTuple):
    """top1, top5 and loss are means over the images; confusion: int64 (classes, classes), rows are labels."""

    top1: float
    top5: float
    loss: float
    images: int
    confusion: np.ndarray

    def per_class(self) -> np.ndarray:
        """Top-1 accuracy (classes,) of each class, NaN without images."""
        totals = self.confusion.sum(1)
        return np.where(totals > 0, np.diag(self.confusion) / np.maximum(totals, 1), np.nan)


def shard(count: int) -> list[int]:
    """This process's image numbers: every image belongs to exactly one process."""
    return list(range(distributed.rank(), count, distributed.world_size()))


@paddle.no_grad()
def evaluate(model: Any, dataset: Any, image_size: Any, *, crop_share: float = 0.875, batch_size: int = 64,
             subset: Sequence[int] | None = None, num_workers: int = 0) -> Accuracy:
    """Measure a classifier, live or exported.

    subset: the classes that may be predicted (ImageNet-A, ImageNet-R).
    num_workers: processes that decode images; the result is the same to the bit for any number.
    Raises DataError for a label the model has no class for, and for an empty data set.
    Source: official engine_for_finetuning.py, evaluate; each image counts once however many processes there are.
    """
    classes = model.num_classes
    sums, confusion = np.zeros(4), np.zeros((classes, classes), dtype=np.int64)
    allowed = None if subset is None else np.asarray(sorted(subset))
    training = model.training
    model.eval()
    for images, labels, _ in eval_batches(dataset, image_size, batch_size=batch_size, crop_share=crop_share,
                                          numbers=shard(len(dataset)), num_workers=num_workers):
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(f"evaluation: an image has label {int(labels.max())}, the model has {classes} classes "
                            f"(0 .. {classes - 1}). Use the data the model was trained for, or class folders.")
        scores = logits(model, images)
        loss = F.cross_entropy(paddle.to_tensor(scores), paddle.to_tensor(labels), reduction="sum")
        if allowed is not None:
            masked = np.full_like(scores, -np.inf)
            masked[:, allowed] = scores[:, allowed]
            scores = masked
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        sums += (len(labels), (ranked[:, 0] == labels).sum(), (ranked == labels[:, None]).any(1).sum(), float(loss))
        np.add.at(confusion, (labels, ranked[:, 0]), 1)
    if training:
        model.train()
    distributed.barrier_on_cpu()
    sums = all_reduce_sum(paddle.to_tensor(sums)).numpy()
    confusion = all_reduce_sum(paddle.to_tensor(confusion)).numpy()
    if sums[0] == 0:
        raise DataError("evaluation: there is no image. Give a folder of class folders, or a list file.")
    return Accuracy(sums[1] / sums[0], sums[2] / sums[0], sums[3] / sums[0], int(sums[0]), confusion)


def write_results(folder: Path, found: Accuracy, names: Sequence[str]) -> None:
    """per_class.csv and evaluation.json, in UTF-8."""
    with write_atomically(folder / "per_class.csv") as temporary, open(temporary, "w", newline="",
                                                                       encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "top1"])
        for name, total, value in zip(names, found.confusion.sum(1), found.per_class()):
            writer.writerow([printable(name), int(total), f"{value:.6f}"])
    values = {"top1": found.top1, "top5": found.top5, "loss": found.loss, "images": found.images}
    write_text_atomically(folder / "evaluation.json", json.dumps(values, indent=1) + "\n")


def draw_confusion(path: Path, confusion: np.ndarray, names: Sequence[str], *, most: int = 40) -> None:
    """Share of each class's images (rows) predicted as each class (columns), as a PNG.

    confusion: counts (classes, classes), rows are labels.  Of more than `most` classes only those with the lowest
    accuracy are shown, as the title states.  Classes without images are left out.
    """
    from beitv2_core.viz.canvas import Canvas

    totals = confusion.sum(1)
    seen = np.flatnonzero(totals > 0)
    worst = np.sort(seen[np.argsort((np.diag(confusion)[seen] / totals[seen]), kind="stable")[:most]])
    share = confusion[np.ix_(worst, worst)] / totals[worst][:, None]
    side = 2.2 + 0.24 * len(worst)
    title = "share of the label's images" if len(worst) == len(seen) else f"the {most} least accurate classes"
    with Canvas(path, side + 0.8, side, title=title) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
        labels = [printable(names[i]) for i in worst]
        axes.set_xticks(range(len(worst)), labels, rotation=90)
        axes.set_yticks(range(len(worst)), labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("label")
        figure.colorbar(image, ax=axes, shrink=0.7)
