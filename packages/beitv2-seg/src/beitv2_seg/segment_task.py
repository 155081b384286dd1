"""The segmentation method: losses of both heads, evaluations on the way, the best weights kept.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paddle

from beitv2_core.engine import distributed
from beitv2_core.engine.ema import WeightAverage
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_core.layers.collective import broadcast

log = logging.getLogger("beitv2_seg")
Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]
NAMES = ("loss_decode", "loss_aux")
EMA_DECAY = 0.999


class SegmentTask:
    """Weighted losses of a segmentor's outputs (mmsegmentation 0.11, EncoderDecoder.forward_train).

    losses: (weight, function of logits (B, C, H, W) and labels (B, H, W)) of every output; measure: model -> {"miou":
    ..., more}, called at every `every` steps and the last; the best weights go to `folder`/best_model/model.pdparams;
    patience: evaluations without a better mIoU after which the run is finished; use_ema: average the weights as
    PaddleSeg does (decay min(1 - 1 / (step + 1), 0.999)), measure them too, keep the best in ema_best_model/;
    profiler_options: of PaddleSeg's train_profiler.
    """

    def __init__(self, model: Any, losses: Sequence[tuple[float, Loss]], *, total_steps: int,
                 measure: Callable[[Any], dict[str, float]] | None = None, every: int = 1000,
                 folder: Path | None = None, patience: int | None = None, use_ema: bool = False,
                 profiler_options: str | None = None):
        self.model, self.network = model, model
        self.losses, self.total_steps, self.measure, self.every = list(losses), total_steps, measure, every
        self.folder, self.patience = folder, patience
        self.average = WeightAverage(model, EMA_DECAY) if use_ema else None
        self.best = {"miou": -1.0, "ema_miou": -1.0, "step": 0.0, "worse": 0.0}
        self.measured: dict[str, float] = {}
        self.profiler_options = profiler_options

    @property
    def finished(self) -> bool:
        """True once `patience` evaluations in a row were no better than the best."""
        return self.patience is not None and self.best["worse"] >= self.patience

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """The weighted sum of one `SegBatch` and its parts."""
        outputs = self.network(paddle.to_tensor(batch.images))
        if len(outputs) != len(self.losses):
            raise ConfigError(f"loss.types: {len(self.losses)} losses, the model has {len(outputs)} outputs in "
                              "training. Give one loss for each.")
        labels = paddle.to_tensor(batch.labels)
        parts = [weight * function(logits, labels) for (weight, function), logits in zip(self.losses, outputs)]
        named = {name: part.detach() for name, part in zip(NAMES, parts)}
        return sum(parts[1:], parts[0]), named if len(parts) > 1 else {}

    def before_step(self, batch: Any, *, step: int) -> None:
        """Nothing to prepare."""

    def after_step(self, *, step: int) -> None:
        """Let the averaged weights follow; evaluate where it is time."""
        if self.profiler_options is not None:
            from paddleseg.utils import train_profiler

            train_profiler.add_profiler_step(self.profiler_options)
        if self.average is not None:
            self.average.decay = min(1 - 1 / (step + 2), EMA_DECAY)
            self.average.update()
        if self.measure is not None and ((step + 1) % self.every == 0 or step + 1 == self.total_steps):
            self._evaluate(self.measure, step + 1)

    def _evaluate(self, measure: Callable[[Any], dict[str, float]], step: int) -> None:
        self._share_statistics()
        self.measured = measure(self.model)
        if self.measured["miou"] > self.best["miou"]:
            self.best.update(miou=self.measured["miou"], step=float(step), worse=0.0)
            self._keep("best_model/model.pdparams")
        else:
            self.best["worse"] += 1
        if self.average is not None:
            self.average.swap()
            found = measure(self.model)
            self.measured.update({f"ema_{name}": value for name, value in found.items()})
            if found["miou"] > self.best["ema_miou"]:
                self.best["ema_miou"] = found["miou"]
                self._keep("ema_best_model/ema_model.pdparams")
            self.average.swap()
        self.model.train()
        log.info("iter %d: mIoU %.4f (best %.4f at iter %d)", step, self.measured["miou"], self.best["miou"],
                 int(self.best["step"]))

    def _share_statistics(self) -> None:
        """Running statistics of the first process on all: without synchronised batch norm each has its own."""
        for value in self.model.state_dict().values():
            if value.stop_gradient:  # Paddle keeps the statistics as parameters that are not trained
                value.set_value(broadcast(value))

    def _keep(self, name: str) -> None:
        if self.folder is not None and distributed.is_main():
            write_pdparams(self.model, self.folder / name)

    def on_epoch(self, epoch: int) -> None:
        """Nothing is tied to epochs."""

    def best_values(self) -> dict[str, float]:
        """The best mIoU and the iteration it was reached at, {} without evaluations; for the run's summary."""
        if self.measure is None:
            return {}
        values = {"best_miou": self.best["miou"], "best_iter": self.best["step"]}
        return {**values, "ema_best_miou": self.best["ema_miou"]} if self.average is not None else values

    def log_values(self) -> dict[str, float]:
        """What was measured since the last log line."""
        values, self.measured = self.measured, {}
        return values

    def state(self) -> dict[str, Any]:
        """The best so far, the averaged weights, values not logged yet."""
        average = self.average.state() if self.average is not None else {}
        return {"best": dict(self.best), "average": average, "measured": dict(self.measured)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.best, self.measured = dict(state["best"]), dict(state["measured"])
        if self.average is not None:
            self.average.load_state(state["average"])

    def no_weight_decay(self) -> set[str]:
        """None besides 1-D parameters and biases: the official code lets the class token decay."""
        return set()


def write_pdparams(model: Any, path: Path) -> None:
    """Write a model's weights as PaddleSeg's `--model_path` reads them; the file is whole or absent.

    Raises CheckpointError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.beitv2.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        paddle.save(model.state_dict(), str(temporary))
        os.replace(temporary, path)
    except Exception as error:  # Paddle raises errors of its own on a full disk
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: the weights could not be written: {error}. What was there before is intact; "
                              "free some space or choose another folder.") from error
