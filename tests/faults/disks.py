# SPDX-License-Identifier: Apache-2.0
"""Small disks in memory, for tests that fill them; root only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")
MANY = 10_000


def mount(folder: Path, options: str) -> None:
    """Mount, or mount anew with other options."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(folder: Path, *, pages: int = MANY, files: int = MANY) -> Iterator[Path]:
    """An empty disk with room for so many pages, and files and folders."""
    mount(folder, f"size={pages * PAGE},nr_inodes={files}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_room(folder: Path) -> None:
    """Let the disk grow."""
    mount(folder, f"remount,size={MANY * PAGE},nr_inodes={MANY}")
