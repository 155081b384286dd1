"""Stage 3: train a classifier on mixed pictures and soft targets.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle

from beitv2_cls.losses import soft_cross_entropy
from beitv2_core.data.mixup import Mixup, soft_targets
from beitv2_core.engine.ema import WeightAverage

log = logging.getLogger("beitv2_cls")


class FinetuneTask:
    """Soft-target cross-entropy of a classifier (official engine_for_finetuning.py, train_one_epoch).

    mix: mixup / CutMix or None; smoothing: of the labels; ema_decay: average the weights, and measure the average;
    measure: model -> {name: value}, called after every `every_epochs` epochs, its values go into the next log line.
    The mixing draws from numpy's generator, which the loop seeds for every step.
    """

    finished = False

    def __init__(self, model: Any, *, mix: Mixup | None = None, smoothing: float = 0.0, ema_decay: float | None = None,
                 measure: Callable[[Any], dict[str, float]] | None = None, every_epochs: int = 1):
        self.model, self.network = model, model
        self.mix, self.smoothing, self.measure, self.every_epochs = mix, smoothing, measure, every_epochs
        self.average = WeightAverage(model, ema_decay) if ema_decay is not None else None
        self.measured: dict[str, float] = {}

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Loss and the share of pictures whose own label is predicted, of one `TrainBatch` of numpy arrays."""
        images, lam = (batch.images, 1.0) if self.mix is None else self.mix(batch.images, np.random)
        targets_BC = soft_targets(batch.labels, self.model.num_classes, lam=lam, smoothing=self.smoothing)
        logits_BC = self.network(paddle.to_tensor(images))
        own = (logits_BC.detach().argmax(-1) == paddle.to_tensor(batch.labels)).astype("float32").mean()
        return soft_cross_entropy(logits_BC, paddle.to_tensor(targets_BC)), {"acc": own}

    def before_step(self, batch: Any, *, step: int) -> None:
        """Nothing to prepare."""

    def after_step(self, *, step: int) -> None:
        """Let the averaged weights follow."""
        if self.average is not None:
            self.average.update()

    def on_epoch(self, epoch: int) -> None:
        """Measure on the validation pictures after every `every_epochs` epochs."""
        if epoch > 0 and epoch % self.every_epochs == 0:
            self.measured = self.measure_now()

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

    def log_values(self) -> dict[str, float]:
        """What was measured since the last log line."""
        values, self.measured = self.measured, {}
        return values

    def state(self) -> dict[str, Any]:
        """The averaged weights and values not logged yet."""
        average = self.average.state() if self.average is not None else {}
        return {"average": average, "measured": dict(self.measured)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        if self.average is not None:
            self.average.load_state(state["average"])
        self.measured = dict(state["measured"])

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay (official `no_weight_decay`)."""
        return self.model.no_weight_decay()
