# SPDX-License-Identifier: Apache-2.0
"""Files and folders that readers see complete or not at all, also after a power cut.

The one writer of the three packages: what lasts is written here, and nothing else renames or syncs
(`tests/house/test_one_writer.py`).  When a block ends without an error, what it wrote is on the disk under its name.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .durable import make_folder, remove_file, sync_file, sync_folder, sync_tree

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a file's writer is alive, so none is removed
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("beitv2_core")

#: end of the names of files that are being written; a run folder removes those that a killed process left
UNFINISHED = ".beitv2.tmp"


@contextlib.contextmanager
def write_atomically(path: str | Path, *, of_many: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write to; after the block it is synced to the disk and takes the name `path`.

    The folder is created.  After an error the temporary file is removed, and what was at `path` stays.  What a process
    that was killed while writing `path` left is removed first: a writer holds a lock on its file, which ends with the
    process.
    of_many: one of many files in a folder, whose names are synced by `durable.sync_folder` after the last; until then a
    power cut may take a name away, or bring the old file back, and never leaves half of one.
    Raises OSError where it cannot be written.
    """
    path = Path(path)
    with _unfinished(path) as temporary:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        if not of_many:
            sync_folder(path.parent)


def write_text_atomically(path: str | Path, text: str, *, errors: str = "strict") -> None:
    """`write_atomically` for a text, in UTF-8."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def write_text_once(path: str | Path, text: str) -> None:
    """`write_text_atomically` where no file is yet; of several processes one writes, the others let go."""
    path = Path(path)
    with _unfinished(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        sync_file(temporary)
        try:
            os.link(temporary, path)  # fails where another process was first
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links; the last of several equal ones stays
            os.replace(temporary, path)
        sync_folder(path.parent)


@contextlib.contextmanager
def write_folder_atomically(path: str | Path, *, aside: Path | None = None) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; after the block all of it is synced and takes the name `path`.

    After an error it is removed.  aside: the name that a folder at `path` takes until the new one is there; a reader
    looks for it where there is none at `path`.  Without it, a folder at `path` is an error.  Raises OSError.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp_{path.name}_{os.getpid()}")
    try:
        make_folder(path.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        sync_tree(temporary)
        if aside is not None and path.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)
        os.rename(temporary, path)
        sync_folder(path.parent)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def write_files_together(folder: str | Path, *, last: str) -> Iterator[Path]:
    """A temporary folder in `folder` to write files to; after the block they replace those of their names in `folder`.

    last: the file without which the others are not read.  It is removed before the first of the others is replaced, and
    comes last, so that a reader never takes new files with old ones; other files in `folder` stay.  Raises OSError.
    """
    folder = make_folder(folder)
    temporary = folder / f".tmp_{last}_{os.getpid()}"
    try:
        for leftover in folder.glob(f".tmp_{last}_*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        sync_tree(temporary)
        remove_file(folder / last)
        for name in sorted(path.name for path in temporary.iterdir() if path.name != last):
            os.replace(temporary / name, folder / name)
        sync_folder(folder)
        os.replace(temporary / last, folder / last)
        sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def append_to(path: str | Path, *, errors: str = "strict") -> IO[str]:
    """A file of lines to append to, made with its folder; `keep_lines` waits until the disk has them.

    What was appended since may be lost or torn by a power cut: a line may be cut short, or hold zeros where its bytes
    did not reach the disk.  Readers pass over such a line; one without an end is ended here, before the next.
    """
    path = Path(path)
    make_folder(path.parent)
    file = open(path, "a+b")
    try:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        return io.TextIOWrapper(file, encoding="utf-8", errors=errors)
    except BaseException:
        file.close()
        raise


def keep_lines(file: IO[Any]) -> None:
    """Wait until the disk has all lines that were appended to a file of `append_to`."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A locked file beside `path` under a name that nothing reads; it is gone after the block, unless renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    make_folder(path.parent)
    _remove_leftovers(path)
    try:
        with _locked(temporary):
            yield temporary
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made: the error of the block is the one to tell
            temporary.unlink()


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
