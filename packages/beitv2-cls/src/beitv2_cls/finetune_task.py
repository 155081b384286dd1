# SPDX-License-Identifier: Apache-2.0
"""Stage 3: train a classifier on mixed images and soft targets.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from beitv2_cls.classes import check_same
from beitv2_cls.losses import soft_cross_entropy
from beitv2_core.data.views.mixup import Mixup, soft_targets
from beitv2_core.engine.ema import WeightAverage
from beitv2_core.engine.task import Task

log = logging.getLogger("beitv2_cls")


class FinetuneTask(Task):
    """Soft-target cross-entropy of a classifier (official engine_for_finetuning.py, train_one_epoch).

    classes: names by number, kept in every checkpoint; mix: mixup / CutMix or None; smoothing: of the labels;
    ema_decay: average the weights, and measure the average; measure: model -> {name: value}, called after each update
    that `due` (update number from 0 -> bool) names.
    The mixing draws from numpy's generator, which the loop seeds for every step.
    """

    def __init__(self, model: Any, *, classes: Sequence[str] = (), mix: Mixup | None = None, smoothing: float = 0.0,
                 ema_decay: float | None = None, measure: Callable[[Any], dict[str, float]] | None = None,
                 due: Callable[[int], bool] = lambda step: False):
        self.model, self.network = model, model
        self.classes = list(classes)
        self.mix, self.smoothing, self.measure, self.due = mix, smoothing, measure, due
        self.average = WeightAverage(model, ema_decay) if ema_decay is not None else None
        self._last: dict[str, float] | None = None

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Loss and the share of images whose own label is predicted, of one `TrainBatch` of numpy arrays."""
        images, lam = (batch.images, 1.0) if self.mix is None else self.mix(batch.images, np.random)
        targets_BC = soft_targets(batch.labels, self.model.num_classes, lam=lam, smoothing=self.smoothing)
        logits_BC = self.network(paddle.to_tensor(images))
        own = (logits_BC.detach().argmax(-1) == paddle.to_tensor(batch.labels)).astype("float32").mean()
        return soft_cross_entropy(logits_BC, paddle.to_tensor(targets_BC)), {"acc": own}

    def after_step(self, *, step: int) -> dict[str, float] | None:
        """Update the averaged weights; returns the validation values where they are due."""
        if self.average is not None:
            self.average.update()
        self._last = self.measure_now() if self.due(step) else None
        return self._last

    def last_values(self) -> dict[str, float]:
        """The validation values after the last update; measured now if they were not due."""
        return self.measure_now() if self._last is None else self._last

    def measure_now(self) -> dict[str, float]:
        """The validation values of the weights and, with an average, of the averaged weights (`ema_...`)."""
        if self.measure is None:
            return {}
        values = self.measure(self.model)
        if self.average is not None:
            self.average.swap()
            values.update({f"ema_{name}": value for name, value in self.measure(self.model).items()})
            self.average.swap()
        return values

    def state(self) -> dict[str, Any]:
        """The class names and the averaged weights."""
        return {"classes": self.classes, "average": self.average.state() if self.average is not None else {}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave; ConfigError where it has other classes."""
        check_same(state.get("classes", self.classes), self.classes, "the checkpoint")
        if self.average is not None:
            self.average.load_state(state["average"])

    def copies(self) -> dict[str, paddle.Tensor]:
        """The averaged weights."""
        return {} if self.average is None else dict(self.average.average)

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay (official `no_weight_decay`)."""
        return self.model.no_weight_decay()
