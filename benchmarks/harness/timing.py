# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a piece of work; standard library only, as the peers' environment reads it too."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any, Callable


def timed(work: Callable[[], Any], repeats: int, *, warm_up: int = 1) -> list[float]:
    """Seconds of each of `repeats` calls, after calls that do not count."""
    seconds = []
    for number in range(warm_up + repeats):
        began = time.perf_counter()
        work()
        if number >= warm_up:
            seconds.append(time.perf_counter() - began)
    return seconds


def timed_in_turns(works: dict[str, Callable[[], Any]], repeats: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every call of several pieces of work, done in turns so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(warm_up + repeats):
        for name, work in works.items():
            took = timed(work, 1, warm_up=0)
            if number >= warm_up:
                seconds[name] += took
    return seconds


def peak_bytes() -> int:
    """The most memory this process ever had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Memory resident now (Linux); elsewhere the peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """Ask the kernel to count the peak from now on, where it can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass
