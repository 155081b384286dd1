# SPDX-License-Identifier: Apache-2.0
"""Linear evaluation: many linear classifiers on one frozen trunk, all trained in the same pass over the data.

Shape suffixes: B batch, D width, C classes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from beitv2_cls.accuracy import shard
from beitv2_cls.classes import check_same
from beitv2_core.data import eval_batches
from beitv2_core.data.views.transforms import normalise
from beitv2_core.engine import distributed
from beitv2_core.engine.task import Task
from beitv2_core.errors import ConfigError, DataError
from beitv2_core.files.atomic import write_atomically
from beitv2_core.layers.collective import all_reduce_sum
from beitv2_core.layers.fast.linear import Linear
from beitv2_core.layers.init import normal

FEATURES = ("cls", "mean", "concat")


class Probe(NamedTuple):
    """One linear classifier: the block whose raw output it reads, the feature made of it, its learning rate."""

    layer: int
    feature: str
    lr: float


class LinearProbes(nn.Layer):
    """One linear classifier for every (layer, feature, learning rate), on a trunk that is never changed.

    trunk: a `BEiTBackbone`; layers: numbers of blocks; features: "cls" (class token), "mean" (of the patch tokens) or
    "concat" (both, class token first), all of the raw block output, without a norm.  Weights start normal(0, 0.01),
    biases at zero.  Raises ConfigError for a block the trunk does not have or an unknown feature.
    Source: official beit/run_linear_eval.py, LinearClassifier (one per layer on "concat").
    """

    def __init__(self, trunk: Any, *, num_classes: int, layers: Sequence[int], features: Sequence[str] = ("concat",),
                 rates: Sequence[float] = (4e-3,)):
        super().__init__()
        wrong = [layer for layer in layers if not 0 <= layer < trunk.depth]
        if wrong or not layers:
            raise ConfigError(f"probe.layers: {list(layers)}; the trunk has blocks 0 .. {trunk.depth - 1}.")
        unknown = sorted(set(features) - set(FEATURES))
        if unknown or not features:
            raise ConfigError(f"probe.features: {list(features)}; expected some of {', '.join(FEATURES)}.")
        self.num_classes = num_classes
        self.probes = [Probe(layer, feature, rate) for layer in layers for feature in features for rate in rates]
        widths = {"cls": trunk.width, "mean": trunk.width, "concat": 2 * trunk.width}
        self.linear = nn.LayerList([Linear(widths[probe.feature], num_classes) for probe in self.probes])
        for linear in self.linear:
            normal(linear.weight, 0.01)
            linear.bias.set_value(paddle.zeros([num_classes]))
        # Outside the state: the frozen trunk is read from its own run again, not saved with the classifiers.
        self._frozen = [trunk]
        trunk.eval()

    def features(self, images: paddle.Tensor) -> dict[tuple[int, str], paddle.Tensor]:
        """{(layer, feature): (B, D) or (B, 2 D)} of the frozen trunk."""
        layers = sorted({probe.layer for probe in self.probes})
        with paddle.no_grad():
            _, taps = self._frozen[0].forward_tokens(images, taps=layers)
            found = {}
            for layer in layers:
                tokens_BTD = taps[layer].astype("float32")
                cls_BD, mean_BD = tokens_BTD[:, 0], tokens_BTD[:, 1:].mean(1)
                found.update({(layer, "cls"): cls_BD, (layer, "mean"): mean_BD,
                              (layer, "concat"): paddle.concat([cls_BD, mean_BD], -1)})
        return found

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Logits (B, C) of every classifier, in the order of `probes`."""
        features = self.features(images)
        return [linear(features[probe.layer, probe.feature]) for probe, linear in zip(self.probes, self.linear)]

    def rate_scale(self, lr: float) -> Any:
        """The factor of `lr` by parameter name, so that every classifier has its own learning rate."""
        return lambda name: self.probes[int(name.split(".")[1])].lr / lr


class LinearProbeTask(Task):
    """Sum over the classifiers of the mean cross-entropy: they do not influence one another.

    classes: names by number, kept in every checkpoint; measure: the classifiers -> top-1 (classifiers,), called after
    each update that `due` (update number from 0 -> bool) names.
    """

    def __init__(self, probes: LinearProbes, *, classes: Sequence[str] = (),
                 measure: Callable[[LinearProbes], np.ndarray] | None = None,
                 due: Callable[[int], bool] = lambda step: False):
        self.model, self.network = probes, probes
        self.classes = list(classes)
        self.measure, self.due = measure, due
        self._last: np.ndarray | None = None

    @property
    def beside(self) -> Any:
        """The frozen trunk."""
        return self.model._frozen[0]

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """The summed loss of one `TrainBatch`, which is minimised; what is logged: the classifiers' mean ("loss") and
        the best one's share of right answers ("best_acc")."""
        labels = paddle.to_tensor(batch.labels)
        logits = self.network(paddle.to_tensor(batch.images))
        loss = paddle.add_n([F.cross_entropy(one_BC.astype("float32"), labels) for one_BC in logits])
        with paddle.no_grad():
            right = paddle.stack([(one_BC.argmax(-1) == labels).astype("float32").mean() for one_BC in logits])
        best = distributed.all_reduce_mean(right).max()  # over all processes' images
        return loss, {"loss": loss.detach() / len(logits), "best_acc": best}

    def after_step(self, *, step: int) -> dict[str, float] | None:
        """The best classifier's validation top-1 where it is due."""
        self._last = self.measure(self.model) if self.measure is not None and self.due(step) else None
        return None if self._last is None else {"val_best_acc1": float(self._last.max())}

    def last_values(self) -> np.ndarray:
        """Top-1 of every classifier after the last update; measured now if it was not due."""
        if self._last is not None:
            return self._last
        if self.measure is None:
            raise DataError("linear probe: there are no validation images to measure on. Give validation.root.")
        return self.measure(self.model)

    def frozen(self) -> dict[str, paddle.Tensor]:
        """The trunk's weights."""
        return dict(self.beside.state_dict())

    def state(self) -> dict[str, Any]:
        """The class names."""
        return {"classes": self.classes}

    def load_state(self, state: dict[str, Any]) -> None:
        """ConfigError where the checkpoint has other classes."""
        check_same(state.get("classes", self.classes), self.classes, "the checkpoint")



@paddle.no_grad()
def measure_probes(probes: LinearProbes, dataset: Any, image_size: Any, *, crop_share: float,
                   batch_size: int, num_workers: int = 0) -> np.ndarray:
    """Top-1 (classifiers,) on the labelled images, shared among the processes.  Raises DataError for no image."""
    right, seen = np.zeros(len(probes.probes)), 0
    for images, labels, _ in eval_batches(dataset, image_size, batch_size=batch_size, crop_share=crop_share,
                                          numbers=shard(len(dataset)), num_workers=num_workers):
        for i, logits_BC in enumerate(probes(paddle.to_tensor(normalise(images)))):
            right[i] += int((logits_BC.numpy().argmax(1) == labels).sum())
        seen += len(labels)
    distributed.barrier_on_cpu()
    total = all_reduce_sum(paddle.to_tensor(np.append(right, seen))).numpy()
    if total[-1] == 0:
        raise DataError("linear probe: there is no validation image. Give a folder of class folders, or a list file.")
    return total[:-1] / total[-1]


def write_table(path: Path, probes: Sequence[Probe], top1: Sequence[float]) -> None:
    """Every classifier and its top-1 as CSV, the best first."""
    ranked = sorted(zip(probes, top1), key=lambda row: -row[1])
    with write_atomically(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "feature", "lr", "top1"])
        writer.writerows([probe.layer, probe.feature, probe.lr, f"{value:.6f}"] for probe, value in ranked)


def draw_probes(path: Path, probes: Sequence[Probe], top1: Sequence[float]) -> None:
    """Best top-1 over the learning rates against the layer, one line for each feature, as a PNG."""
    from beitv2_core.viz.canvas import Canvas

    layers = sorted({probe.layer for probe in probes})
    with Canvas(path, 5, 3.4) as figure:
        axes = figure.add_subplot()
        for feature in dict.fromkeys(probe.feature for probe in probes):
            best = [100 * max(value for probe, value in zip(probes, top1)
                              if probe.layer == layer and probe.feature == feature) for layer in layers]
            axes.plot(layers, best, "o-", label=feature)
        axes.set_xticks(layers)
        axes.set_xlabel("block")
        axes.set_ylabel("top-1, best learning rate, %")
        axes.legend()
