"""Faults put into a process from inside; `warm.py` calls one of these functions in the fork before the command runs."""

from __future__ import annotations

import os
import signal


def kill_at_rename(number: int) -> None:
    """SIGKILL just before the `number`-th file or folder gets its final name."""
    seen = 0

    def counted(original):
        def rename(*args, **options):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)
        return rename

    os.replace, os.rename = counted(os.replace), counted(os.rename)
