"""Several processes as one, under `paddle.distributed.launch`; every function is a no-op in a single process."""

from __future__ import annotations

import os

import paddle
import paddle.distributed as dist


def init() -> None:
    """Join the group `paddle.distributed.launch` describes; nothing to do outside of it. Safe to call twice."""
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1 and not dist.is_initialized():
        dist.init_parallel_env()


def world_size() -> int:
    """Number of processes of this run, 1 outside a launch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 .. world_size - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """True in the one process that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        # An all-reduce of one number: gloo's own barrier is missing from some CPU builds.
        dist.all_reduce(paddle.zeros([1]))


def all_values(value: int) -> list[int]:
    """That number of every process, in order of their ranks."""
    if world_size() == 1:
        return [value]
    found: list[paddle.Tensor] = []
    dist.all_gather(found, paddle.to_tensor([value], dtype="int64"))
    return [int(one) for one in found]


def all_reduce_mean(tensor: paddle.Tensor) -> paddle.Tensor:
    """The mean of a tensor over all processes."""
    if world_size() == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed / world_size()
