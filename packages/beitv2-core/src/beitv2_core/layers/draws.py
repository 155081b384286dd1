# SPDX-License-Identifier: Apache-2.0
"""Draws per sample, independent of the number of processes and of micro-batches of an accumulated update."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import paddle
import paddle.distributed as dist

#: (number of the micro-batch that is computed, micro-batches of one update)
_micro_batch = (0, 1)
#: (rank, processes) that this process stands for; None: those it has
_stands_for: tuple[int, int] | None = None


@contextlib.contextmanager
def micro_batch(number: int, count: int) -> Iterator[None]:
    """Inside, the rows of a batch are those of micro-batch `number` (0 .. count - 1) of one update."""
    global _micro_batch
    before, _micro_batch = _micro_batch, (number, count)
    try:
        yield
    finally:
        _micro_batch = before


@contextlib.contextmanager
def as_process(rank: int, processes: int) -> Iterator[None]:
    """Inside, rows are drawn as by the process `rank` of so many."""
    global _stands_for
    before, _stands_for = _stands_for, (rank, processes)
    try:
        yield
    finally:
        _stands_for = before


def draw_for_local_samples(draw: Callable[[int], paddle.Tensor], rows: int) -> paddle.Tensor:
    """This process's rows of what one process with the update's whole batch would draw, `draw(all rows)`.

    draw: a number of rows -> a tensor with as many, from Paddle's generator, which has to be in the same state in every
    process and at the start of every micro-batch (the loop sees to it).  rows: images of this process's batch, the
    same number in every process.  A micro-batch is the next stretch of the whole batch, and process r of n has every
    n-th row of it from r on, as the sampler deals them (`data/sampler.py`).

    The rows of the whole update are drawn in every process, so this is for a number or a few an image: 2,048 images of
    64 processes are 8 KB, less work than a generator for each image, and one process draws what Paddle itself would.
    `draw_sample_by_sample` is for more.
    """
    whole, own = _rows_of_update(rows), _places(rows)
    return draw(rows) if whole == rows else draw(whole)[own.start:own.stop:own.step]


def draw_sample_by_sample(draw: Callable[[int], paddle.Tensor], rows: int) -> paddle.Tensor:
    """As `draw_for_local_samples` for large draws: only this process's rows of this micro-batch are drawn.

    Each row comes from generators of its own, seeded by one number from Paddle's generator and the row's place in the
    update's batch.
    """
    shared = int(paddle.randint(0, 2**31 - 1, [1], dtype="int64").item())
    after = paddle.get_rng_state()
    drawn = []
    for place in _places(rows):
        key = hashlib.blake2b(f"{shared}/{place}".encode(), digest_size=4).digest()
        paddle.seed(int.from_bytes(key, "little"))
        drawn.append(draw(1))
    paddle.set_rng_state(after)
    return paddle.concat(drawn)


def _process() -> tuple[int, int]:
    if _stands_for is not None:
        return _stands_for
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _rows_of_update(rows: int) -> int:
    return rows * _process()[1] * _micro_batch[1]


def _places(rows: int) -> range:
    """Where this process's rows stand in the update's batch."""
    (rank, processes), number = _process(), _micro_batch[0]
    at_once = rows * processes
    return range(number * at_once + rank, (number + 1) * at_once, processes)
