# SPDX-License-Identifier: Apache-2.0
"""Tar shards from a folder of images: the same folder gives the same bytes."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import DataError
from ...files.atomic import write_atomically, write_text_atomically
from ...files.durable import make_folder, remove_file, sync_folder
from .folder import ImageFolder
from .shards import CLASSES_FILE, UNFINISHED_SHARDS


def write_shards(folder: ImageFolder, out: Path, *, per_shard: int, name: str = "train", seed: int | None = 0,
                 overwrite: bool = False) -> Iterator[int]:
    """Write `out/NAME-000000.tar`, ... of `per_shard` images each, as they are; yields the number written so far.

    Samples are NUMBER.EXTENSION and, with classes, NUMBER.cls (`classes.txt` lists the names); `NAME.txt` says which
    file each was.  seed: of the order, so that every shard holds all kinds of images; None keeps the folder's.
    A shard appears only when it is complete, and readers refuse the shards (`shards.UNFINISHED_SHARDS`) until all are
    there and the old ones gone.  Raises DataError where shards of that name exist, unless `overwrite` replaces them,
    and where a file cannot be read or written.
    """
    old = sorted([*out.glob(f"{name}-*.tar"), *out.glob(f"{name}-*.tar.index.npz")]) if out.is_dir() else []
    unfinished = out / f"{name}{UNFINISHED_SHARDS}"
    if old and not overwrite:
        raise DataError(f"{out}: already holds {old[0].name} ({len(old)} files {name}-*). Give an empty folder, "
                        "another --name, or --overwrite.")
    classes = os.fsencode("".join(f"{one}\n" for one in folder.classes or ()))
    listed = out / CLASSES_FILE
    if folder.classes is not None and not overwrite and listed.is_file() and listed.read_bytes() != classes:
        raise DataError(f"{listed}: names other classes than {folder.root} has. Give another folder, or --overwrite.")
    order = np.arange(len(folder)) if seed is None else np.random.RandomState(seed).permutation(len(folder))
    try:
        make_folder(out)
        write_text_atomically(unfinished, "`beitv2 make-shards` did not finish; start it again with --overwrite.\n")
        for path in old:
            path.unlink()
        lines = []
        for start in range(0, len(order), per_shard):
            path = out / f"{name}-{start // per_shard:06d}.tar"
            chosen = [int(index) for index in order[start : start + per_shard]]
            _write_pieces(path, _shard(folder, chosen, start))
            lines += [f"{path.name}/{_member(folder, index, start + i)}\t{folder.paths[index]}\n"
                      for i, index in enumerate(chosen)]
            yield start + len(chosen)
        _write_pieces(out / f"{name}.txt", iter([os.fsencode("".join(lines))]))
        if folder.classes is not None:
            _write_pieces(out / CLASSES_FILE, iter([classes]))
        sync_folder(out)
        remove_file(unfinished)
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}. The shards written so far are whole; "
                        "free space or repair the file, then start again with --overwrite.") from error


def _member(folder: ImageFolder, index: int, number: int) -> str:
    return f"{number:08d}{os.path.splitext(folder.paths[index])[1].lower()}"


def _shard(folder: ImageFolder, indices: list[int], first: int) -> Iterator[bytes]:
    """The bytes of one tar file, piece by piece: no times, owners or machine in them."""
    size = 0
    for i, index in enumerate(indices):
        files = [(_member(folder, index, first + i), (folder.root / folder.paths[index]).read_bytes())]
        if folder.labels is not None:
            files.append((f"{first + i:08d}.cls", str(int(folder.labels[index])).encode()))
        for member, content in files:
            info = tarfile.TarInfo(member)
            info.size, info.mode = len(content), 0o644
            piece = info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
            size += len(piece)
            yield piece
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(size + end) % tarfile.RECORDSIZE)


def _write_pieces(path: Path, pieces: Iterator[bytes]) -> None:
    with write_atomically(path, of_many=True) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            file.write(piece)
