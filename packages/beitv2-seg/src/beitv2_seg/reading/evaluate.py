# SPDX-License-Identifier: Apache-2.0
"""mIoU of a segmentor on a data set, by one or several processes, and what is written about it."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from beitv2_core.engine import distributed
from beitv2_core.engine.progress import Progress
from beitv2_core.errors import DataError
from beitv2_core.files.atomic import write_atomically, write_text_atomically
from beitv2_core.layers.collective import all_reduce_sum
from beitv2_seg.config import SegmentConfig, TestConfig
from beitv2_seg.data.coverage import coverage_lines
from beitv2_seg.reading.inputs import LabelledImages
from beitv2_seg.reading.label_map import predict_label_map
from beitv2_seg.reading.metrics import DEFINITION, ConfusionMatrix, Scores, in_words

SECONDS_BETWEEN_LINES = 20.0


class Evaluation(NamedTuple):
    """scores; counts: int64 (classes, classes), rows are labels; images: how many were measured; ignored: pixels
    without a class."""

    scores: Scores
    counts: np.ndarray
    images: int
    ignored: int = 0

    def warnings(self, config: SegmentConfig, names: Sequence[str]) -> list[str]:
        """Classes without a labelled pixel, by name, and what to do."""
        counts = np.append(self.counts.sum(1), self.ignored)
        return coverage_lines(counts, names, ignored=config.ignored, where=f"the evaluation ({self.images} images)",
                              label_map=config.label_map)


def evaluate(model: Any, dataset: Any, test: TestConfig, *, num_classes: int, ignored: int = 255,
             window_batch: int = 4, num_workers: int = 0) -> Evaluation:
    """Measure a segmentor on a PaddleSeg data set in "val" mode; every image counts once on any number of processes.

    ignored: label of pixels without a class; window_batch: sliding windows computed together; num_workers: processes
    that read images, the result is the same to the bit for any number.  Raises DataError for an empty set, an
    undecodable file, a label outside the classes, a label of another size than its image.
    """
    if len(dataset) == 0:
        raise DataError("evaluation: there is no image. Check val_dataset.")
    matrix, passed = ConfusionMatrix(num_classes, ignored), 0
    numbers = range(distributed.rank(), len(dataset), distributed.world_size())
    images = LabelledImages(dataset, test.read_scales, num_classes=num_classes, ignored=ignored)
    training, shown = model.training, time.monotonic()
    model.eval()
    with Progress("evaluation", len(numbers), 0, images_per_step=1, enabled=distributed.is_main()) as progress, \
            contextlib.closing(images.in_order(numbers, num_workers)) as read:
        for done, image in enumerate(read, 1):
            passed += image.ignored
            found = predict_label_map(model, image.inputs, test, window_batch=window_batch)
            if found.shape != image.label.shape:
                raise DataError(f"{image.path}: the image is {found.shape} pixels, its label {image.label.shape}. "
                                "Image and label must have the same size.")
            matrix.add(found, image.label)
            progress.advance(done)
            if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                so_far = matrix.scores()
                progress.line(done, {"mIoU so far": so_far.miou, "classes measured": so_far.measured})
    if training:
        model.train()
    distributed.barrier_on_cpu()
    sums = all_reduce_sum(paddle.to_tensor(np.append(matrix.counts.reshape(-1), passed))).numpy()
    matrix.counts = sums[:-1].reshape(matrix.counts.shape)
    return Evaluation(matrix.scores(), matrix.counts, len(dataset), int(sums[-1]))


def write_evaluation(found: Evaluation, names: Sequence[str], folder: Path) -> list[Path]:
    """evaluation.json, per_class_iou.csv, confusion.npy and an image of the IoUs in `folder`; returns the files."""
    scores = found.scores
    table, summary, counts = (folder / name for name in ("per_class_iou.csv", "evaluation.json", "confusion.npy"))
    with write_atomically(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "name", "labelled_pixels", "predicted_pixels", "iou", "accuracy"])
        for i, name in enumerate(names):
            writer.writerow([i, name, int(found.counts[i].sum()), int(found.counts[:, i].sum()),
                             _cell(scores.iou[i]), _cell(scores.accuracy[i])])
    values = {"miou": scores.miou, "macc": scores.macc, "aacc": scores.aacc}
    write_text_atomically(summary, json.dumps(
        {name: None if np.isnan(value) else value for name, value in values.items()} |
        {"classes_measured": scores.measured, "classes": len(scores.iou), "images": found.images,
         "definition": DEFINITION}, indent=1) + "\n")
    with write_atomically(counts) as temporary, open(temporary, "wb") as raw:
        np.save(raw, found.counts)
    image = folder / "figures" / "iou.png"
    draw_iou(image, found, names)
    return [summary, table, counts, image]


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"


def draw_iou(path: Path, found: Evaluation, names: Sequence[str], *, most: int = 50) -> None:
    """Bars of the IoU of every class that is present, best first, as a PNG; of more than `most` the worst are shown."""
    from beitv2_core.viz.canvas import ACCENT, Canvas

    scores = found.scores
    present = [i for i in np.argsort(-np.nan_to_num(scores.iou, nan=-1.0), kind="stable")
               if not np.isnan(scores.iou[i])]
    shown = present[-most:]
    title = in_words(scores).partition("   ")[0]
    if len(shown) < len(present):
        title += f", the {most} worst"
    with Canvas(path, 6, 1.2 + 0.2 * max(len(shown), 1), title=title) as figure:
        axes = figure.add_subplot()
        bars = axes.barh(range(len(shown)), [100 * scores.iou[i] for i in shown], color=ACCENT)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=7)
        axes.set_yticks(range(len(shown)), [names[i] for i in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("IoU, %")
