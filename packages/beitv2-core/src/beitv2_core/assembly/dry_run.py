# SPDX-License-Identifier: Apache-2.0
"""Build a run, take one training step and measure it; nothing is written. `beitv2 plan` estimates other devices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle


class DryRun(NamedTuple):
    """Measurements of one step. Bytes are of this process; activations are what the backward pass needs."""

    kind: str
    parameters: int
    trainable: int
    frozen_beside: int
    plan_lines: list[str]
    loss: float
    gradient_norm: float
    seconds: float
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    notes: list[str]

    def lines(self) -> list[str]:
        """The report, a line per fact."""
        total = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes
        return [
            f"kind: {self.kind}",
            f"parameters: {self.parameters:,}, {self.trainable:,} of them trained; "
            f"{self.frozen_beside:,} more in the frozen network",
            *self.plan_lines,
            f"one step: loss {self.loss:.5g}, gradient norm {self.gradient_norm:.4g}, {self.seconds:.2f} s",
            f"memory of a process: {_mega(total)} = weights {_mega(self.weight_bytes)} "
            f"+ gradients {_mega(self.gradient_bytes)} + optimizer {_mega(self.optimizer_bytes)} "
            f"+ activations {_mega(self.activation_bytes)}",
            *self.notes,
        ]


def saved_for_backward(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes of the tensors that `forward()` keeps for its backward pass; its return value is not used.

    A tensor saved twice counts once; weights and buffers of `model` do not count.  A recomputed block keeps only its
    input.
    """
    seen = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, Any] = {}  # holds the tensors: an address must not be used again while addresses are compared

    def save(tensor: Any) -> Any:
        if tensor.data_ptr() not in seen:
            saved.setdefault(tensor.data_ptr(), tensor.detach())
        return tensor

    # No backward pass may follow: Paddle crashes in it once a tensor that was saved twice came through a hook.
    with paddle.autograd.saved_tensors_hooks(save, lambda tensor: tensor):
        forward()
    return sum(map(_nbytes, saved.values()))


class KeepsGradients:
    """An optimizer whose gradients can still be measured after the step."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def clear_grad(self, set_to_zero: bool = True) -> None:
        """Keep the gradients."""


def run_one_step(config: Any, build: Callable[[Any], Any] | None = None) -> DryRun:
    """Build everything the settings name and take one training step. Nothing is written.

    build: settings -> `assembly.training.Parts`, of other kinds of runs.  A recipe with mixed precision takes its step
    in float32 where this device does not compute it, and the report says so.
    """
    from ..engine.step import Precision, train_step
    from ..layers.fast.products import why_not
    from .training import build_parts

    notes = []
    for section in ("tokenizer", "teacher"):
        if getattr(getattr(config, section, None), "cache", None) is not None:  # it would be written to
            config = _changed(config, section, cache=None)
    for section in ("train", "tokenizer"):
        amp = getattr(getattr(config, section, None), "amp", "off")
        reason = why_not(amp)
        if reason is not None:
            config = _changed(config, section, amp="off")
            notes.append(f"{section}.amp={amp}: {reason} This step was taken in float32; to train on this machine, set "
                         f"{section}.amp=off")
    parts = (build_parts if build is None else build)(config)
    task, model = parts.task, parts.task.model
    model.train()
    batches = [next(iter(parts.loader))]  # one of the accumulated batches is enough to measure
    parts.loader.close()
    optimizer = KeepsGradients(parts.optimizer)
    precision = Precision(config.train.amp)
    start = time.perf_counter()
    metrics = train_step(task, batches, optimizer, precision, step=0, clip_norm=config.optim.clip_norm)
    seconds = time.perf_counter() - start
    with precision.autocast():
        activations = saved_for_backward(model, lambda: task.loss(batches[0], step=0))
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    weights = sum(map(_nbytes, model.state_dict().values()))
    gradient_bytes = sum(map(_nbytes, gradients))
    moments = {"adamw": 2, "adam": 2, "sgd": 1}[config.optim.kind]
    beside = next((getattr(task, name) for name in ("teacher", "tokenizer", "beside") if hasattr(task, name)), None)
    return DryRun(
        kind=config.kind,
        parameters=sum(_size(parameter) for parameter in model.parameters()),
        trainable=sum(map(_size, trained)),
        frozen_beside=sum(_size(parameter) for parameter in beside.parameters()) if beside is not None else 0,
        plan_lines=parts.plan.lines(config.optim),
        loss=metrics["loss"],
        gradient_norm=metrics["grad_norm"],
        seconds=seconds,
        weight_bytes=weights,
        gradient_bytes=gradient_bytes,
        optimizer_bytes=moments * gradient_bytes,
        activation_bytes=activations,
        notes=notes,
    )


def _changed(config: Any, section: str, **values: Any) -> Any:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape))


def _itemsize(tensor: Any) -> int:
    return 2 if "16" in str(tensor.dtype) else 8 if "64" in str(tensor.dtype) else 4


def _nbytes(tensor: Any) -> int:
    return _size(tensor) * _itemsize(tensor)


def _mega(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
