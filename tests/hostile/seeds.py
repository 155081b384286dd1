# SPDX-License-Identifier: Apache-2.0
"""A reader of files of others, and the inputs it is given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MEGABYTE = 2**20


class Seed(NamedTuple):
    """Files by their names below a folder, the one (or the folder, ".") that is read, and those that are changed."""

    files: Mapping[str, bytes]
    target: str
    changed: tuple[str, ...]
    name: str = ""
    sealed: bool = False  # whether checksums are made anew after a change


class Parser(NamedTuple):
    """A reader, its inputs, and the memory it may take.

    special: hostile inputs by hand, of the file that would be written if one were executed.  constant: bytes, multiple:
    bytes for each byte of the input that may be taken beside what the program held before.  seal: makes the checksums
    of changed files fit again.
    """

    read: Callable[[Path], Any]
    seeds: Callable[[], list[Seed]]
    special: Callable[[Path], Iterator[Seed]] = lambda marker: iter(())
    constant: int = 64 * MEGABYTE
    multiple: int = 64
    seal: Callable[[dict[str, bytes]], dict[str, bytes]] = dict


def single(files: Mapping[str, bytes]) -> list[Seed]:
    return [Seed({name: content}, name, (name,), name) for name, content in files.items()]


def written_by(write: Callable[[Path], Any]) -> dict[str, bytes]:
    """The files that a function writes into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*"))
                if path.is_file()}
