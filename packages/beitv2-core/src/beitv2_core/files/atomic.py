# SPDX-License-Identifier: Apache-2.0
"""Files that readers see complete or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

#: end of the names of files that are being written; a run folder removes those that a killed process left
UNFINISHED = ".beitv2.tmp"


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; after the block it is synced to the disk and takes the name `path`.

    The folder is created.  After an error the temporary file is removed, and what was at `path` stays.  Raises OSError
    where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
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
