"""Build a whole run, take one step, measure it, and leave nothing behind."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import paddle


class DryRun(NamedTuple):
    """What one step showed. Bytes are of this process; activations are what the backward pass keeps, estimated."""

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

    def lines(self) -> list[str]:
        """The report, a line per fact."""
        total = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes
        return [
            f"kind: {self.kind}",
            f"parameters: {self.parameters:,}, {self.trainable:,} of them trained; "
            f"{self.frozen_beside:,} more in the frozen network beside",
            *self.plan_lines,
            f"one step: loss {self.loss:.5g}, gradient norm {self.gradient_norm:.4g}, {self.seconds:.2f} s",
            f"memory of a process (estimated): {_mega(total)} = weights {_mega(self.weight_bytes)} "
            f"+ gradients {_mega(self.gradient_bytes)} + optimizer {_mega(self.optimizer_bytes)} "
            f"+ activations {_mega(self.activation_bytes)}",
        ]


class ActivationCounter:
    """Adds up the bytes of layer outputs that need a gradient, while it is open.

    Attention tables (heads x tokens x tokens, scores and weights) never leave their layer and are added by shape.
    """

    def __init__(self, model: Any) -> None:
        self.bytes = 0
        self._hooks = []
        for layer in model.sublayers():
            if hasattr(layer, "num_heads") and hasattr(layer, "qkv"):
                self._hooks.append(layer.register_forward_post_hook(self._attention))
            elif not list(layer.children()):
                self._hooks.append(layer.register_forward_post_hook(self._leaf))

    def __enter__(self) -> ActivationCounter:
        return self

    def __exit__(self, *exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _leaf(self, layer: Any, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, paddle.Tensor) and not tensor.stop_gradient:
                self.bytes += _nbytes(tensor)

    def _attention(self, layer: Any, inputs: Any, output: Any) -> None:
        first = inputs[0]
        if not first.stop_gradient:
            batch, tokens = first.shape[0], first.shape[1]
            self.bytes += 2 * batch * layer.num_heads * tokens * tokens * _itemsize(first)


class _KeepsGradients:
    """An optimizer whose gradients can still be measured after the step."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def clear_grad(self) -> None:
        """Leave the gradients where they are."""


def run_one_step(config: Any) -> DryRun:
    """Build everything the settings name and take one training step. Nothing is written."""
    from .build.training import build_parts
    from .engine.step import Precision, train_step

    if getattr(getattr(config, "tokenizer", None), "cache", None) is not None:  # it would be written to
        config = config.model_copy(update={"tokenizer": config.tokenizer.model_copy(update={"cache": None})})
    parts = build_parts(config)
    task, model = parts.task, parts.task.model
    model.train()
    batches = [next(iter(parts.loader))]  # one of the accumulated batches is enough to measure
    parts.loader.close()
    optimizer = _KeepsGradients(parts.optimizer)
    start = time.perf_counter()
    with ActivationCounter(model) as counter:
        metrics = train_step(
            task, batches, optimizer, Precision(config.train.amp), step=0, clip_norm=config.optim.clip_norm
        )
    seconds = time.perf_counter() - start
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    weights = sum(map(_nbytes, model.state_dict().values()))
    gradient_bytes = sum(map(_nbytes, gradients))
    moments = {"adamw": 2, "adam": 2, "sgd": 1}[config.optim.kind]
    beside = getattr(task, "teacher", None) or getattr(task, "tokenizer", None)
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
        activation_bytes=counter.bytes,
    )


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape))


def _itemsize(tensor: Any) -> int:
    return 2 if "16" in str(tensor.dtype) else 8 if "64" in str(tensor.dtype) else 4


def _nbytes(tensor: Any) -> int:
    return _size(tensor) * _itemsize(tensor)


def _mega(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
