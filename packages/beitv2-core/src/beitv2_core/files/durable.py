# SPDX-License-Identifier: Apache-2.0
"""What has to happen for a file, a name or a folder to be there after the power went.

A file system keeps written data in memory until it is synced, and a new name until its folder is: after a power cut a
file can be empty under its final name, and a whole one can have none.  Source: Pillai et al., OSDI 2014, section 2.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger("beitv2_core")

#: what opening or syncing a folder raises where nothing can be synced: Windows, some network disks, no permission to
#: list it
_NOT_SYNCED = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)


def sync_file(path: str | Path) -> None:
    """Wait until the content of a file is on the disk; raises OSError where the disk refuses."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: str | Path) -> None:
    """Wait until the names in a folder are on the disk: what was made, renamed and removed there."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
        log.debug("%s: the names in this folder cannot be synced (%s)", path, error)


def sync_tree(folder: Path) -> None:
    """`sync_file` and `sync_folder` for all that is in a folder, and for the folder."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_tree(path)
        else:
            sync_file(path)
    sync_folder(folder)


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it that are missing, each synced into the one above; returns its path.

    Raises OSError where it cannot be made (FileExistsError: a file of that name).
    """
    path = Path(path)
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    return path


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name, and wait until the disk has it: the new name before the old one is gone."""
    os.replace(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def remove_file(path: Path) -> None:
    """Remove a file where there is one, and wait until the disk has no such name."""
    if path.exists():
        path.unlink()
        sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder such that a reader finds all of it or nothing: it first gets a name that nothing reads."""
    doomed = path.with_name(f".tmp_{path.name}_old")
    shutil.rmtree(doomed, ignore_errors=True)
    rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
