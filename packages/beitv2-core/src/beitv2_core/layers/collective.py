# SPDX-License-Identifier: Apache-2.0
"""Collectives models need: the same codebook on every rank. No-ops in a single process."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def all_reduce_sum(tensor: paddle.Tensor) -> paddle.Tensor:
    """The sum of a tensor over all processes."""
    if _alone():
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


class _Sum(PyLayer):
    """The sum over all processes; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: paddle.Tensor) -> paddle.Tensor:
        return all_reduce_sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        return all_reduce_sum(gradient)


def differentiable_sum(tensor: paddle.Tensor) -> paddle.Tensor:
    """The sum of a tensor over all processes, with gradient: every process's loss depends on every summand.

    Every process must use it equally often and in the same order, in the forward and the backward pass.
    """
    return tensor if _alone() else _Sum.apply(tensor)


def broadcast(tensor: paddle.Tensor) -> paddle.Tensor:
    """The first process's tensor, on every process."""
    if _alone():
        return tensor
    copy = tensor.clone()
    dist.broadcast(copy, src=0)
    return copy


def all_gather(tensor: paddle.Tensor) -> paddle.Tensor:
    """The rows of all processes' tensors (R, ...): the first of every rank, the second of every rank, and so on.

    The sampler deals images out in that order, so this is the batch a single process would have had.  R may differ
    between the processes.
    """
    if _alone():
        return tensor
    counts: list[paddle.Tensor] = []
    dist.all_gather(counts, paddle.to_tensor([tensor.shape[0]], dtype="int64"))
    rows = [count.item() for count in counts]
    missing = max(rows) - tensor.shape[0]
    if missing:  # the backends exchange equal shapes only
        tensor = paddle.concat([tensor, paddle.zeros([missing, *tensor.shape[1:]], dtype=tensor.dtype)])
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, tensor)
    together = paddle.stack(parts, axis=1).reshape([-1, *tensor.shape[1:]])
    real = [row * len(rows) + rank for row in range(max(rows)) for rank in range(len(rows)) if row < rows[rank]]
    return together if len(real) == together.shape[0] else together.index_select(paddle.to_tensor(real))
