"""Collectives models need: the same codebook on every rank. No-ops in a single process."""

from __future__ import annotations

import paddle
import paddle.distributed as dist


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def all_reduce_sum(tensor: paddle.Tensor) -> paddle.Tensor:
    """The sum of a tensor over all processes."""
    if _alone():
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def broadcast(tensor: paddle.Tensor) -> paddle.Tensor:
    """The first process's tensor, on every process."""
    if _alone():
        return tensor
    copy = tensor.clone()
    dist.broadcast(copy, src=0)
    return copy


def all_gather(tensor: paddle.Tensor) -> paddle.Tensor:
    """The rows of all processes' tensors (R, D) one after another; every process must have equally many rows."""
    if _alone():
        return tensor
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, tensor)
    return paddle.concat(parts)
