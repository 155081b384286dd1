# SPDX-License-Identifier: Apache-2.0
"""The segmentation method: losses of both heads, evaluations on the way, the best weights kept.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle

from beitv2_core.engine import distributed
from beitv2_core.engine.ema import WeightAverage
from beitv2_core.engine.task import Task
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_core.files.atomic import write_atomically
from beitv2_core.layers.collective import broadcast
from beitv2_seg.data.coverage import SeenLabels
from beitv2_seg.reading.evaluate import Evaluation
from beitv2_seg.reading.metrics import in_words

log = logging.getLogger("beitv2_seg")
Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]
NAMES = ("loss_decode", "loss_aux")
EMA_DECAY = 0.999


class SegmentTask(Task):
    """Weighted losses of a segmentor's outputs (mmsegmentation 0.11, EncoderDecoder.forward_train).

    losses: (weight, function of logits (B, C, H, W) and labels (B, H, W)) of every output; seen: names classes without
    a labelled pixel after the first epoch; measure: model -> Evaluation, called at every `every` steps and the last;
    warn: what to say about the first one; the best weights go to `folder`/best_model/model.pdparams, where an mIoU was
    measured at all; patience: evaluations without a better mIoU after which the run is finished; use_ema: average the
    weights as PaddleSeg does (decay min(1 - 1 / (step + 1), 0.999)), measure them too, keep the best in
    ema_best_model/; after_update: called after every step.
    """

    def __init__(self, model: Any, losses: Sequence[tuple[float, Loss]], *, total_steps: int, seen: SeenLabels,
                 measure: Callable[[Any], Evaluation] | None = None,
                 warn: Callable[[Evaluation], Sequence[str]] = lambda found: (), every: int = 1000,
                 folder: Path | None = None, patience: int | None = None, use_ema: bool = False,
                 after_update: Callable[[], None] = lambda: None):
        self.model, self.network = model, model
        self.losses, self.total_steps, self.measure, self.every = list(losses), total_steps, measure, every
        self.folder, self.patience, self.seen, self.warn = folder, patience, seen, warn
        self.average = WeightAverage(model, EMA_DECAY) if use_ema else None
        self.best: dict[str, Optional[float]] = {"miou": None, "ema_miou": None, "step": None}
        self.worse = self.evaluations = 0
        self.last: dict[str, Any] = {}  # of the newest step and the newest evaluation, for the summary
        self._loss: Optional[paddle.Tensor] = None
        self.after_update = after_update

    @property
    def finished(self) -> bool:
        """True once `patience` evaluations in a row were no better than the best."""
        return self.patience is not None and self.worse >= self.patience

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """The weighted sum of one `SegBatch` and its parts."""
        outputs = self.network(paddle.to_tensor(batch.images))
        if len(outputs) != len(self.losses):
            raise ConfigError(f"loss.types: {len(self.losses)} losses, the model has {len(outputs)} outputs in "
                              "training. Give one loss for each.")
        self.seen.add(batch.counts)
        labels = paddle.to_tensor(batch.labels)
        parts = [weight * function(logits, labels) for (weight, function), logits in zip(self.losses, outputs)]
        named = {name: part.detach() for name, part in zip(NAMES, parts)}
        total = sum(parts[1:], parts[0])
        self._loss = total.detach()
        return total, named if len(parts) > 1 else {}

    def after_step(self, *, step: int) -> dict[str, float]:
        """Let the averaged weights follow; evaluate where it is time, and return what was measured."""
        self.after_update()
        if self.average is not None:
            self.average.decay = min(1 - 1 / (step + 2), EMA_DECAY)
            self.average.update()
        saves, ends = (step + 1) % self.every == 0, step + 1 == self.total_steps
        self.last["iter"] = step + 1
        if saves:
            self.seen.share()
        if ends:
            self.seen.tell(f"training, all {self.total_steps} iterations")
        return self._evaluate(self.measure, step + 1) if self.measure is not None and (saves or ends) else {}

    def _evaluate(self, measure: Callable[[Any], Evaluation], step: int) -> dict[str, float]:
        self._share_statistics()
        found = measure(self.model)
        if self.evaluations == 0 and distributed.is_main():
            for line in self.warn(found):
                log.warning("%s", line)
        self.evaluations += 1
        values = self._compared(found, "miou", "best_model/model.pdparams", step)
        better = self.best["step"] == float(step)
        self.worse = 0 if better else self.worse + 1
        if self.average is not None:
            self.average.swap()
            averaged = self._compared(measure(self.model), "ema_miou", "ema_best_model/ema_model.pdparams", step)
            values.update({f"ema_{name}": value for name, value in averaged.items()})
            self.average.swap()
        self.model.train()
        best = "" if self.best["miou"] is None else (
            f", best {100 * self.best['miou']:.2f} % at iter {self.best['step']:.0f}")
        log.info("iter %d: %s%s", step, in_words(found.scores), best)
        self.last = {"iter": step, **values}
        return values

    def _compared(self, found: Evaluation, key: str, file: str, step: int) -> dict[str, float]:
        """What was measured, without what could not be; the weights are kept where no mIoU was better."""
        scores = found.scores
        before = self.best[key]
        if not np.isnan(scores.miou) and (before is None or scores.miou > before):
            self.best[key] = scores.miou
            if key == "miou":
                self.best["step"] = float(step)
            self._keep(file)
        means = {"miou": scores.miou, "macc": scores.macc, "aacc": scores.aacc}
        return {**{name: value for name, value in means.items() if not np.isnan(value)},
                "classes_measured": float(scores.measured)}

    def _share_statistics(self) -> None:
        """Running statistics of the first process on all: without synchronised batch norm each has its own."""
        for value in self.model.state_dict().values():
            if value.stop_gradient:  # Paddle keeps the statistics as parameters that are not trained
                value.set_value(broadcast(value))

    def _keep(self, name: str) -> None:
        if self.folder is not None and distributed.is_main():
            write_pdparams(self.model, self.folder / name)

    def on_epoch(self, epoch: int) -> None:
        """After the first epoch, say which classes had no labelled pixel."""
        if epoch > 0:
            self.seen.tell("training, first epoch")

    def final_values(self) -> dict[str, Any]:
        """For the run's summary: the newest iteration's loss and evaluation, the best mIoU and where it was reached.

        A mean that could not be measured is None; without evaluations there is none.
        """
        classes = len(self.seen.names)
        values = {**self._last_values(), "classes": classes,
                  "classes_labelled": int(np.count_nonzero(self.seen.counts[:-1]))}
        if self.measure is not None:
            means = {name: values.get(name) for name in ("miou", "macc", "aacc")}
            values.update(means, best_miou=self.best["miou"], best_iter=self.best["step"])
            if self.average is not None:
                values["ema_best_miou"] = self.best["ema_miou"]
        return values

    def _last_values(self) -> dict[str, Any]:
        newest = {} if self._loss is None else {"loss": float(self._loss)}
        return {**self.last, **newest}

    def state(self) -> dict[str, Any]:
        """The best so far, the averaged weights, the labels seen, the newest values, the names of the classes."""
        average = self.average.state() if self.average is not None else {}
        return {"best": dict(self.best), "worse": self.worse, "evaluations": self.evaluations, "average": average,
                "last": self._last_values(), "seen": self.seen.state(), "classes": self.seen.names}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave; checkpoints of before say -1 for an mIoU that was not measured."""
        saved = dict(state["best"])
        self.worse, self.evaluations = int(state.get("worse", saved.get("worse")) or 0), state.get("evaluations", 1)
        self.best = {key: None if saved[key] is None or saved[key] < 0 else saved[key] for key in self.best}
        self.last, self._loss = dict(state.get("last", {})), None
        self.seen.load_state(state.get("seen", {**self.seen.state(), "told": True}))
        if self.average is not None:
            self.average.load_state(state["average"])

    def copies(self) -> dict[str, paddle.Tensor]:
        """The averaged weights."""
        return {} if self.average is None else dict(self.average.average)

    def no_weight_decay(self) -> set[str]:
        """None besides 1-D parameters and biases: the official code lets the class token decay."""
        return set()


def write_pdparams(model: Any, path: Path) -> None:
    """Write a model's weights as PaddleSeg's `--model_path` reads them; the file is whole or absent.

    Raises CheckpointError where it cannot be written.
    """
    try:
        with write_atomically(path) as temporary:
            paddle.save(model.state_dict(), str(temporary))
    except Exception as error:  # Paddle raises errors of its own on a full disk
        raise CheckpointError(f"{path}: the weights could not be written: {error}. What was there before is intact; "
                              "free some space or choose another folder.") from error
