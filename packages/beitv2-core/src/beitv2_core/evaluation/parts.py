# SPDX-License-Identifier: Apache-2.0
"""Arrays of many images, computed in parts that a stopped run leaves behind and the same command continues.

Parts lie in a folder beside the output while the work goes on; at the end they become one file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files.atomic import write_atomically, write_text_atomically
from ..files.json_text import parse_json

log = logging.getLogger("beitv2_core")
#: arrays of consecutive images by name; their first axis are the images
Rows = Mapping[str, np.ndarray]
#: rows of the texts that are written at a time
CHUNK = 4096


class Column(NamedTuple):
    """Type and shape of one image's part of an array."""

    dtype: np.dtype
    shape: tuple[int, ...]


def in_parts(output: Path, key: Mapping[str, Any], count: int, part_size: int,
             compute: Callable[[Sequence[int]], Iterator[Rows]],
             join: Callable[[Path, Sequence[Path]], None]) -> Iterator[int]:
    """Compute the rows of `count` images and write them to `output`; yields the number of images done, part by part.

    key: what the result depends on; parts that were left by work with another key are not used.  compute: the rows of
    the images of these numbers, in this order, in pieces of any length.  join: (path to write to, the parts in order).
    Memory does not grow with the number of images.
    Raises DataError for a folder of the parts' name that holds other files: it is somebody's.
    """
    parts = output.with_name(output.name + ".parts")
    _open_parts(parts, dict(key))
    ranges = [range(start, min(start + part_size, count)) for start in range(0, count, part_size)]
    names = [parts / f"part_{number:06d}.npz" for number in range(len(ranges))]
    missing = [number for numbers, name in zip(ranges, names) if not name.exists() for number in numbers]
    rows = _Cutter(compute(missing) if missing else iter(()))
    try:
        for numbers, name in zip(ranges, names):
            if not name.exists():
                found = rows.take(len(numbers))
                with write_atomically(name, of_many=True) as temporary, open(temporary, "wb") as file:
                    np.savez(file, **found)
            yield numbers.stop
    finally:
        rows.close()
    with write_atomically(output) as temporary:
        join(temporary, names)
    shutil.rmtree(parts)


class _Cutter:
    """Takes a number of rows after the other from pieces of any length."""

    def __init__(self, pieces: Iterator[Rows]):
        self._pieces, self._kept = pieces, []  # type: tuple[Any, list[Rows]]

    def take(self, count: int) -> dict[str, np.ndarray]:
        while sum(_length(piece) for piece in self._kept) < count:
            self._kept.append(next(self._pieces))
        whole = {name: np.concatenate([piece[name] for piece in self._kept]) for name in self._kept[0]}
        self._kept = [{name: array[count:] for name, array in whole.items()}]
        return {name: array[:count] for name, array in whole.items()}

    def close(self) -> None:
        if hasattr(self._pieces, "close"):
            self._pieces.close()


def _length(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def files_key(paths: Sequence[str]) -> dict[str, Any]:
    """Number of the files, and SHA-256 of their names, sizes and times in order: part of a `key`."""
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path)
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {"images": len(paths), "files": digest.hexdigest()}


def _open_parts(parts: Path, key: dict[str, Any]) -> None:
    """Keep the parts of the same work, drop those of another."""
    manifest = parts / "manifest.json"
    if parts.is_dir():
        try:
            same = parse_json(manifest.read_text(encoding="utf-8")) == key
        except (OSError, ValueError):
            same = False
        if same:
            log.info("%s: continuing with %d finished part(s).", parts, len(list(parts.glob("part_*.npz"))))
            return
        strange = [path.name for path in parts.iterdir() if not _is_part(path.name)]
        if strange:
            raise DataError(f"{parts}: holds {strange[0]}, which is no part of this work; it is left alone. Give "
                            "another --output, or move the folder away.")
        log.warning("%s: parts of other images, another model or other settings; they are computed anew.", parts)
        shutil.rmtree(parts)
    write_text_atomically(manifest, json.dumps(key))


def _is_part(name: str) -> bool:
    return name == "manifest.json" or (name.startswith(("part_", ".part_", ".manifest.json."))
                                      and name.endswith((".npz", ".npy", ".tmp")))  # .npy: of version 0.2


def join_npz(path: Path, parts: Sequence[Path], count: int, columns: Mapping[str, Column],
             facts: Iterable[tuple[str, Any]], *, compress: bool) -> None:
    """One .npz of the parts' columns, a part at a time, and of facts: arrays, or lists of texts, by name."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, column in columns.items():
            with _entry(archive, name, compress) as file:
                _write_header(file, column.dtype, (count, *column.shape))
                for part in parts:
                    with np.load(part) as rows:
                        file.write(np.ascontiguousarray(rows[name], dtype=column.dtype).tobytes())
        for name, value in facts:
            with _entry(archive, name, compress) as file:
                if isinstance(value, list):
                    _write_texts(file, value)
                else:
                    np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)


def _entry(archive: zipfile.ZipFile, name: str, compress: bool) -> Any:
    entry = zipfile.ZipInfo(f"{name}.npy")  # without the time: the same arrays make the same file
    entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    entry.external_attr = 0o644 << 16
    return archive.open(entry, "w", force_zip64=True)


def _write_texts(file: Any, texts: list[str]) -> None:
    """An array of texts, without holding it: each takes the space of the longest."""
    longest = max([1, *map(len, texts)])
    _write_header(file, np.dtype(f"<U{longest}"), (len(texts),))
    for start in range(0, len(texts), CHUNK):
        file.write(np.asarray(texts[start : start + CHUNK], dtype=f"<U{longest}").tobytes())


def _write_header(file: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def text_of(path: str) -> str:
    """A path as text: bytes that are none are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
