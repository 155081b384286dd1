# SPDX-License-Identifier: Apache-2.0
"""What the system knows of processes: alive, stopped, of the same launcher; and ending together with the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def state(pid: int) -> str | None:
    """The letter of /proc/PID/stat ("R" running, "T" stopped by a signal, ...); None: no such process, or no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[0]  # the name before it may hold blanks and brackets


def is_alive(pid: int) -> bool:
    """False once a process has ended, also where nobody has waited for it yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return state(pid) not in ("Z", "X")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that has ended meanwhile needs none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def siblings() -> dict[int, int]:
    """Rank -> process of the others that this process's launcher has started on this host; empty without /proc."""
    found = {}
    for children in Path(f"/proc/{os.getppid()}/task").glob("*/children"):
        try:
            for child in children.read_text(encoding="ascii").split():
                rank = _rank_of(int(child))
                if rank is not None and int(child) != os.getpid():
                    found[rank] = int(child)
        except OSError:  # it has ended
            continue
    return found


def _rank_of(pid: int) -> int | None:
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == b"PADDLE_TRAINER_ID" and value.isdigit():
            return int(value)
    return None


class StoppedWatch:
    """Processes that were found stopped (SIGSTOP) at every one of the last `looks` looks.

    Looks are counted, not seconds: whoever was stopped itself, as when a scheduler suspends a whole job, has seen
    nothing meanwhile.
    """

    def __init__(self, looks: int):
        self._looks = looks
        self._seen: dict[int, int] = {}

    def look(self, pids: Iterable[int]) -> list[int]:
        """Look once; those of `pids` that have been stopped for too long."""
        self._seen = {pid: self._seen.get(pid, 0) + 1 for pid in pids if state(pid) == "T"}
        return [pid for pid, times in self._seen.items() if times >= self._looks]


def end_with(parent: int) -> None:
    """From now on this process is killed when its parent, process `parent`, ends. Only Linux knows that."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        kill(os.getpid())
