# SPDX-License-Identifier: Apache-2.0
"""Files that readers see complete or not at all."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a file's writer is alive, so none is removed
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("beitv2_core")

#: end of the names of files that are being written; a run folder removes those that a killed process left
UNFINISHED = ".beitv2.tmp"


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; after the block it is synced to the disk and takes the name `path`.

    The folder is created.  After an error the temporary file is removed, and what was at `path` stays.  What a process
    that was killed while writing `path` left is removed first: a writer holds a lock on its file, which ends with the
    process.  Raises OSError where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    try:
        with _locked(temporary):
            yield temporary
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made: the error of the block is the one to tell
            temporary.unlink()


def write_text_atomically(path: str | Path, text: str) -> None:
    """`write_atomically` for a text, in UTF-8."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _locked(temporary: Path) -> Iterator[None]:
    """Make the file and hold a lock on it."""
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours now; not where another process has it, and not where there are no locks.

    The number of a process says less than a lock: on a shared disk, and in another container, it is another's number.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove what dead processes left of writing `path`; what is being written, here or on another host, stays."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.\d+{re.escape(UNFINISHED)}")
    for leftover in [path.parent / name for name in _unfinished_in(path.parent) if ours.fullmatch(name)]:
        with contextlib.suppress(OSError):  # removed by another, or not ours to open
            descriptor = os.open(leftover, os.O_RDWR)
            try:
                if _lock(descriptor):
                    leftover.unlink()
                    log.info("%s: left by a process that was killed while writing it; removed", leftover)
            finally:
                os.close(descriptor)


@functools.lru_cache(maxsize=64)
def _unfinished_in(folder: Path) -> tuple[str, ...]:
    """As the folder was when this process first wrote there: a folder of many parts is not listed for each."""
    try:
        return tuple(name for name in os.listdir(folder) if name.endswith(UNFINISHED))
    except PermissionError:  # a folder that may be written to and not listed
        return ()
