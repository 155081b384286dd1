# SPDX-License-Identifier: Apache-2.0
"""Where the images of a tar file begin: found by one pass over its headers, kept in a small file for the next time.

The layout is WebDataset's: files with the same name up to the first dot of the last part are one sample; a sample is
its image (`key.jpg`) and, where it has one, its label (`key.cls`, a whole number, or `key.json` with "label" or
"cls").
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError
from ...files.atomic import write_atomically
from ...files.json_text import parse_json
from ...files.npz import open_npz
from .folder import PathList
from .image_file import FOREIGN_EXTENSIONS, readable_extensions, tell_foreign

logger = logging.getLogger("beitv2_core")

VERSION = 2
NO_LABEL, BAD_LABEL = -1, -2
MAX_LABEL_BYTES = 1 << 20
MOST_CLASSES = 1_000_000  # the classes are the numbers up to the greatest label: one wrong label must not make billions
BLOCK = 512


class TarIndex(NamedTuple):
    """The samples of one tar file in its order: names of the image members, where their bytes are, labels.

    offsets, sizes: int64 bytes; labels: int64, -1 where there is none, -2 where it is no whole number.
    """

    names: PathList
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def of(self, numbers: np.ndarray) -> TarIndex:
        """The index of some of the samples."""
        return TarIndex(PathList([self.names[int(number)] for number in numbers]), self.offsets[numbers],
                        self.sizes[numbers], self.labels[numbers])


def read_index(path: Path, cache: Path) -> TarIndex:
    """The index of a tar file: the one kept beside it or in `cache` if it is of this very file, else a new one.

    A file counts as the same while size and time of change are.  A new index is kept beside the tar file, where that
    folder cannot be written to in `cache`, else not at all.  Raises DataError naming file and member.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"data.root: {path} cannot be read ({error.strerror}); expected a tar file.") from error
    stamp = [VERSION, stat.st_size, stat.st_mtime_ns]
    beside = path.with_name(path.name + ".index.npz")
    elsewhere = cache / f"{_name_of(path)}.index.npz"
    for place in (beside, elsewhere):
        found = _load(place, stamp)
        if found is not None:
            return found
    index = scan_tar(path)
    for place in (beside, elsewhere):
        try:
            _save(place, index, stamp)
            break
        except OSError as error:
            logger.debug("%s: the index cannot be kept there (%s)", place, error)
    return index


def scan_tar(path: Path) -> TarIndex:
    """Read all headers of a tar file once, in order.

    Links, sparse files and devices are skipped with a warning, hidden names without.  Raises DataError for a damaged,
    truncated or compressed file, one without images, names that lead out of the folder, two images of one name.
    """
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                _take(path, tar, member, images, labels, seen)
            end = tar.offset  # type: ignore[attr-defined]
    except DataError:
        raise
    except Exception as error:  # a damaged header: TarError, ValueError, OverflowError, MemoryError, ...
        raise DataError(
            f"{path}: not a whole, uncompressed tar file ({type(error).__name__}: {error}). Copy or write it again; a "
            "compressed one has to be unpacked: images do not get smaller."
        ) from error
    _check_end(path, end)
    tell_foreign(path, (name for name in seen if name.lower().endswith(FOREIGN_EXTENSIONS)))
    if not images:
        raise DataError(
            f"{path}: no images among its {len(seen)} files; looked for {', '.join(readable_extensions())}. "
            "Give shards in the WebDataset layout (key.jpg, key.cls), or write some with `beitv2 make-shards`."
        )
    names, offsets, sizes = zip(*images.values())
    found = [labels.get(key, NO_LABEL) for key in images]
    return TarIndex(PathList(names), *(np.asarray(values, dtype=np.int64) for values in (offsets, sizes, found)))


def _take(path: Path, tar: Any, member: Any, images: dict[str, tuple[str, int, int]], labels: dict[str, int],
          seen: set[str]) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: member {member.name!r} leads out of the folder; names must be relative, without '..'."
                        " Write the shard again.")
    if member.isdir() or name.name.startswith("."):
        return
    if not member.isreg() or member.issparse():
        kind = "a link" if member.islnk() or member.issym() else "a sparse file" if member.issparse() else "no file"
        logger.warning("%s: member %s is %s; it is skipped. Store the file itself.", path, member.name, kind)
        return
    if member.name in seen:
        raise DataError(f"{path}: member {member.name} comes twice. Sample names must be unique in a shard.")
    seen.add(member.name)
    stem, _, kind = name.name.partition(".")
    key, kind = str(name.with_name(stem)) if stem else str(name), kind.lower()
    if f".{kind}" in readable_extensions():
        if key in images:
            raise DataError(f"{path}: {images[key][0]} and {member.name} are images of one sample, {key}; expected "
                            "one image a sample. Rename one of them.")
        images[key] = (member.name, member.offset_data, member.size)
    elif kind in ("cls", "json"):
        if kind == "cls" or labels.get(key, NO_LABEL) == NO_LABEL:  # .cls wins
            content = tar.extractfile(member).read(MAX_LABEL_BYTES)
            labels[key] = _number(content) if kind == "cls" else _label(content)


def _number(content: bytes) -> int:
    """The label in a .cls file; BAD_LABEL where it is no whole number from 0 to `MOST_CLASSES` - 1."""
    text = content.strip()
    return _in_range(int(text)) if text.isdigit() and len(text) < 100 else BAD_LABEL


def _label(content: bytes) -> int:
    """The label in a .json file; NO_LABEL where it names none, BAD_LABEL where it is no such whole number."""
    try:
        value = parse_json(content)
    except ValueError:
        return BAD_LABEL
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
        if value is None:
            return NO_LABEL
    return _in_range(value) if isinstance(value, int) and not isinstance(value, bool) else BAD_LABEL


def _in_range(label: int) -> int:
    return label if 0 <= label < MOST_CLASSES else BAD_LABEL


def _check_end(path: Path, end: int) -> None:
    """A tar file ends with a block of zeros; what `tarfile` takes for the end may be damage or a cut."""
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(BLOCK)
    if block != bytes(BLOCK):
        what = "a damaged header" if len(block) == BLOCK else "no closing block: the file is truncated"
        raise DataError(f"{path}: at byte {end} there is {what}. Copy or write the file again.")


def _name_of(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]


def _load(place: Path, stamp: list[int]) -> TarIndex | None:
    try:
        with open_npz(place) as file:
            if file["stamp"].tolist() != stamp:
                return None
            return TarIndex(PathList.from_arrays(file["names"], file["ends"]), file["offsets"], file["sizes"],
                            file["labels"])
    except Exception as error:  # absent, torn or foreign: it is made again
        logger.debug("%s: no index to use (%s)", place, error)
        return None


def _save(place: Path, index: TarIndex, stamp: list[int]) -> None:
    names, ends = index.names.arrays()
    with write_atomically(place) as temporary, open(temporary, "wb") as file:
        np.savez(file, stamp=np.asarray(stamp, dtype=np.int64), names=names, ends=ends, offsets=index.offsets,
                 sizes=index.sizes, labels=index.labels)
