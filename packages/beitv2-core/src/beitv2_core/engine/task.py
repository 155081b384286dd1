# SPDX-License-Identifier: Apache-2.0
"""A method the loop can train."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn


class Task:
    """What the training loop calls.  A method overrides `loss`, and of the rest what it needs.

    Tasks receive ready objects and convert numpy batches themselves.  A subclass sets `model` and
    `network`.
    """

    model: nn.Layer  #: what is trained and checkpointed
    network: nn.Layer  #: `model`, or its data-parallel wrapper, set by the loop; `loss` calls this one

    @property
    def finished(self) -> bool:
        """True ends the run before its last step, after a checkpoint (early stopping); the same in every process."""
        return False

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """The scalar loss of a batch, and scalar metrics without gradient."""
        raise NotImplementedError(f"{type(self).__name__} has no loss.")

    def before_step(self, batch: Any, *, step: int) -> None:
        """Called before the first micro-batch of a step.  Must give the same result when repeated after a resume."""

    def after_step(self, *, step: int) -> dict[str, float] | None:
        """Called after the weights moved at `step`: averages of weights, evaluations.

        Returns what was measured on validation images, the same in every process: it is logged and shown at that step.
        None or {}: nothing was measured.
        """
        return None

    def on_epoch(self, epoch: int) -> None:
        """Called before the first step of every epoch, and not when a resume enters the middle of one."""

    def log_values(self) -> dict[str, float]:
        """Values gathered since the last log line (codebook usage, ...); starts a new window."""
        return {}

    def state(self) -> dict[str, Any]:
        """All state besides the model's weights that an exact resume needs: numbers, strings, numpy arrays."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""

    def copies(self) -> dict[str, paddle.Tensor]:
        """Tensors besides the model's weights that are the same in every process, bit for bit, after every step."""
        return {}

    def frozen(self) -> dict[str, paddle.Tensor]:
        """Weights of networks that are read and never changed; no checkpoint holds them."""
        return {}

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay, besides 1-D parameters and biases."""
        return set()
