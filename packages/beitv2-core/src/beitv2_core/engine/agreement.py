# SPDX-License-Identifier: Apache-2.0
"""Weights, moments and codebook compared across processes: they are copies of each other, bit for bit.

A bit that flips in the memory of one process, or a processor that computes wrongly, makes that process's copy another
one, and nothing else shows it: the gradients are averaged, so the losses of all processes go on together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn

from beitv2_core.engine import distributed
from beitv2_core.engine.optim import moments
from beitv2_core.engine.sharding import ShardedOptimizer
from beitv2_core.engine.task import Task

#: signed integers by the bytes of a number
_INTEGERS = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}
SHOWN = 4
#: begins the names of what no checkpoint holds
FROZEN = "frozen/"


class Difference(NamedTuple):
    """Numbers that are not what they must be.

    step: after which they were found; after: the newest step after which they were still right; names: of the tensors;
    processes: that differ from the others, empty where nothing tells which ones are right; by: what found it.
    """

    step: int
    after: int
    names: tuple[str, ...]
    processes: tuple[int, ...]
    by: str

    def sentence(self) -> str:
        """What was found, in words."""
        more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
        differ = "differ" if len(self.names) > 1 else "differs"
        return (f"{self.by}: {', '.join(self.names[:SHOWN])}{more} {differ}{self._who()}; it happened after step "
                f"{self.after}, at step {self.step} at the latest")

    def _who(self) -> str:
        if self.by == REPLAY:
            return ""
        if not self.processes:
            return " between the processes, and nothing tells which of them are right"
        numbers = ", ".join(map(str, self.processes))
        return f" in process{'es' if len(self.processes) > 1 else ''} {numbers} from what most processes have"


COMPARISON, REPLAY = "the processes were compared", "the step was computed twice"


class StateDiffers(Exception):
    """Some process does not have the numbers it must have; the training loop goes back to the last checkpoint."""

    def __init__(self, difference: Difference):
        super().__init__(difference.sentence())
        self.difference = difference


def shared_state(task: Task, optimizer: Any) -> dict[str, paddle.Tensor]:
    """What every process has a copy of, by name: weights, codebook and other buffers, moments, the task's own copies,
    and the networks that it only reads.

    Not the moments of a divided optimizer, which are in one process only; not the statistics of a batch norm that is
    not synchronised, which are each process's own.
    """
    own = _own_statistics(task.model)
    named = {name: value for name, value in task.model.state_dict().items() if name not in own}
    if not isinstance(optimizer, ShardedOptimizer):
        named.update(moments(optimizer, task.model))
    named.update({f"task/{name}": value for name, value in task.copies().items()})
    named.update({f"{FROZEN}{name}": value for name, value in task.frozen().items()})
    return named


def _own_statistics(model: nn.Layer) -> set[str]:
    """Running statistics of Paddle's batch norm over the images of one process."""
    found: set[str] = set()
    for name, layer in model.named_sublayers(include_self=True):
        alone = type(layer).__module__.startswith("paddle.") and "BatchNorm" in type(layer).__name__
        if alone and not isinstance(layer, nn.SyncBatchNorm):
            found.update(f"{name}.{key}".lstrip(".") for key in ("_mean", "_variance"))
    return found


@paddle.no_grad()
def digests(named: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
    """One int64 for each tensor: the sum of its bits read as integers of 32 or 64 bits, modulo 2 ** 64.

    A flipped bit changes one of the integers by a power of two below 2 ** 64, so the sum of a tensor with one flipped
    bit is another one, whichever bit it is.  Two flips in one tensor may cancel each other.
    """
    sums = [_sum_in_memory(value) if value.place.is_cpu_place() else _sum_on_device(value) for value in named.values()]
    return paddle.stack([paddle.to_tensor(one, dtype="int64").reshape([]) for one in sums])


def _sum_in_memory(value: paddle.Tensor) -> int:
    """On a processor, by numpy: 20 times as fast as Paddle's sum of integers."""
    octets = value.numpy().reshape(-1).view(np.uint8)
    whole = len(octets) // 8 * 8
    return int(octets[:whole].view(np.int64).sum() + octets[whole:].sum(dtype=np.int64))


def _sum_on_device(value: paddle.Tensor) -> paddle.Tensor:
    """Where the tensor is: only the sum leaves a GPU.  Paddle 2.6 ends in a fault where a view is of wider numbers."""
    flag = "FLAGS_use_stride_kernel"  # off here (`runtime.py`), and Paddle reads bits as other numbers only with it
    before = paddle.get_flags(flag)
    paddle.set_flags({flag: True})
    try:
        bits = value.flatten().view(_INTEGERS[value.element_size()])
    finally:
        paddle.set_flags(before)
    return bits.sum(dtype="int64") if bits.shape[0] else paddle.zeros([1], dtype="int64")


def compare(task: Task, optimizer: Any, *, step: int, after: int) -> Difference | None:
    """Compare the processes' copies after `step` updates; every process must call it, and gets the same answer.

    after: the newest step after which they agreed.
    """
    named = shared_state(task, optimizer)
    rows = distributed.all_rows(digests(named))
    wrong = np.flatnonzero((rows != rows[:1]).any(axis=0))
    if not wrong.size:
        return None
    names = tuple(list(named)[i] for i in wrong)
    return Difference(step, after, names, _minority(rows[:, wrong]), COMPARISON)


def _minority(rows: NDArray[Any]) -> tuple[int, ...]:
    """The processes whose digests (processes, tensors) differ from those of more than half of them; () without such."""
    found: set[int] = set()
    for column in rows.T:
        values, counts = np.unique(column, return_counts=True)
        if 2 * counts.max() <= len(column):
            return ()
        found |= set(np.flatnonzero(column != values[counts.argmax()]).tolist())
    return tuple(sorted(found))
