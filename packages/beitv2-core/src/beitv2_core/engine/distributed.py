# SPDX-License-Identifier: Apache-2.0
"""Processes of one run under `paddle.distributed.launch`; in a single process every function does nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from numpy.typing import NDArray

from beitv2_core.engine.peer_monitor import PeerMonitor

_monitor: PeerMonitor | None = None
#: the peer monitor notices a lost process within this time
NOTICE_S = 2.0


def init() -> None:
    """Join the group `paddle.distributed.launch` describes; nothing to do outside of it. Safe to call twice.

    From then on this process ends, with an error in its log, when another one of the group is gone.
    """
    global _monitor
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1 and not dist.is_initialized():
        if paddle.device.get_device() == "cpu":
            # The launcher sets it only by --backend, which it refuses on several hosts.
            os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
        dist.init_parallel_env()
    if world_size() > 1 and _monitor is None:
        host = dist.ParallelEnv().trainer_endpoints[0].rpartition(":")[0]
        _monitor = PeerMonitor(rank(), world_size(), host, _from_main)


def _from_main(numbers: list[int]) -> list[int]:
    shared = paddle.to_tensor(numbers, dtype="int64")
    dist.broadcast(shared, src=0)
    return [int(number) for number in shared]


def world_size() -> int:
    """Number of processes of this run, 1 outside a launch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 .. world_size - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """True in the one process that writes files."""
    return rank() == 0


def is_first_here() -> bool:
    """True in one process of every machine, the one of the lowest rank."""
    return world_size() == 1 or os.environ.get("PADDLE_RANK_IN_NODE", "0") == "0"  # both of Paddle's launchers set it


def barrier() -> None:
    """Wait without time limit until every process has arrived."""
    if _monitor is not None:
        _monitor.barrier()


def barrier_on_cpu() -> None:
    """`barrier` on the CPU, where gloo's collectives give up on a late process after 30 seconds; nothing on GPUs."""
    if _monitor is not None and paddle.device.get_device() == "cpu":
        _monitor.barrier()


def before_end(act: Callable[[], None]) -> None:
    """Call `act` when this process must end because another one is gone."""
    if _monitor is not None:
        _monitor.before_end = act


def fail(error: BaseException) -> None:
    """End the other processes too: this one is about to end with that error."""
    if _monitor is not None:
        if isinstance(error, RuntimeError):  # the collectives' own: a process is gone, which the monitor logs clearly
            time.sleep(NOTICE_S)
        _monitor.abandon()


def all_values(value: int) -> list[int]:
    """The values of all processes, in order of their ranks."""
    return [int(row[0]) for row in all_rows(paddle.to_tensor([value], dtype="int64"))]


def all_rows(row: paddle.Tensor) -> NDArray[Any]:
    """The 1-D tensors of all processes, of one length everywhere, one row each (processes, length)."""
    if world_size() == 1:
        return np.asarray(row.numpy()[None])
    barrier_on_cpu()
    found: list[paddle.Tensor] = []
    dist.all_gather(found, row)
    return np.asarray(paddle.stack(found).numpy())


def all_texts(text: str) -> list[str]:
    """The texts of all processes, in order of their ranks."""
    if world_size() == 1:
        return [text]
    encoded = list(text.encode("utf-8"))
    lengths = all_values(len(encoded))
    barrier_on_cpu()
    found: list[paddle.Tensor] = []
    dist.all_gather(found, paddle.to_tensor(encoded + [0] * (max(lengths) - len(encoded)), dtype="int64"))
    return [bytes(one.numpy().tolist()[:length]).decode("utf-8") for one, length in zip(found, lengths)]


def all_reduce_mean(tensor: paddle.Tensor) -> paddle.Tensor:
    """The mean of a tensor over all processes."""
    if world_size() == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed / world_size()
