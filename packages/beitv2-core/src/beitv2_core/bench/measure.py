# SPDX-License-Identifier: Apache-2.0
"""Rows in turns: each in a process of its own, timed round by round, compared with the first that runs."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from ..engine.progress import Progress
from ..errors import BEiTError
from ..exporting.agreement import agreement
from .rows import Row, serve

log = logging.getLogger("beitv2_core")
#: seconds between two turns: threads of the one before still spin for a moment
REST = 0.3


class Measured(NamedTuple):
    """What was found of a row; missing: why nothing was.

    seconds: of one batch, a number a round.  memory: peak of the process in bytes.  agreement: with the first row that
    runs, as `exporting.agreement` gives it; of that row itself nothing.
    """

    row: Row
    missing: Optional[str] = None
    seconds: tuple[float, ...] = ()
    images_per_second: float = 0.0
    memory: int = 0
    agreement: Optional[dict[str, float]] = None


def measure(rows: Sequence[Row], images: np.ndarray, *, batch_size: int, rounds: int, threads: int) -> list[Measured]:
    """Run `images` (B, 3, H, W), after mean and std, through every row once, then time one batch in every round.

    The best round counts: others hold what else the machine did.
    """
    with contextlib.ExitStack() as stack, Progress("bench", len(rows) * (rounds + 1), 0,
                                                   images_per_step=batch_size) as progress:
        started = [stack.enter_context(_process(row, threads)) for row in rows]
        answers, memory, done = {}, {}, 0
        for i, (link, _) in enumerate(started):
            if link is not None:
                log.info("%s %s: %d images", rows[i].runtime, rows[i].precision, len(images))
                parts = [_ask(link, images[start : start + batch_size])[1]
                         for start in range(0, len(images), batch_size)]
                answers[i] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                memory[i] = _ask(link, "memory")
            done += 1
            progress.advance(done)
        seconds: dict[int, list[float]] = {i: [] for i in answers}
        for _ in range(rounds):
            for i, (link, _) in enumerate(started):
                if i in answers:
                    time.sleep(REST)
                    seconds[i].append(_ask(link, images[:batch_size])[0])
                done += 1
                progress.advance(done)
    first = next(iter(answers), -1)
    return [Measured(row, missing) if i not in answers else
            Measured(row, None, tuple(seconds[i]), min(batch_size, len(images)) / min(seconds[i]), memory[i],
                     None if i == first else agreement(answers[i], answers[first]))
            for i, (row, (_, missing)) in enumerate(zip(rows, started))]


@contextlib.contextmanager
def _process(row: Row, threads: int) -> Iterator[tuple[Any, Optional[str]]]:
    """A connection to a row that runs, or None and the reason why it does not."""
    if row.missing is not None:
        yield None, row.missing
        return
    context = multiprocessing.get_context("spawn")
    link, theirs = context.Pipe()
    process = context.Process(target=serve, args=(row, threads, theirs), daemon=True)
    with _threads_of_children(threads):
        process.start()
    theirs.close()
    try:
        state, reason = _received(link)
        yield (link if state == "ready" else None), reason
        if process.is_alive() and state == "ready":
            link.send(None)
    finally:
        link.close()
        process.join(10)
        if process.is_alive():
            process.terminate()
            process.join()


@contextlib.contextmanager
def _threads_of_children(count: int) -> Iterator[None]:
    """Processes started inside find this number of threads, whatever this one was told."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _ask(link: Any, question: Any) -> Any:
    try:
        link.send(question)
        return link.recv()
    except (EOFError, OSError):
        raise BEiTError("bench: a process ended while it computed; the system may have lacked memory. Use a smaller "
                        "--batch-size.") from None


def _received(link: Any) -> tuple[str, Optional[str]]:
    try:
        return link.recv()
    except EOFError:
        return "failed", "its process ended while the model was loaded"
