# SPDX-License-Identifier: Apache-2.0
"""What a frozen network gave for fixed views, in a file: a row a view, each with its own checksum."""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, DataError, ShapeError
from ..files.atomic import write_text_once
from ..files.durable import make_folder
from ..files.json_text import parse_json

logger = logging.getLogger("beitv2_core")

VERSION = 1
IDENTITY = "identity.json"


class Kept(NamedTuple):
    """What a cache keeps: its name in messages, the name of its file, the setting that asks for it."""

    noun: str
    file: str
    setting: str


CODES = Kept("codes", "codes.bin", "tokenizer.cache")
FEATURES = Kept("features", "features.bin", "teacher.cache")


class ViewCache:
    """Arrays of one shape, one for each of `rows` views, kept in `folder` beside an identity of what they depend on.

    identity: plain values; a folder made for another one is refused, with what differs.  shape: of a view's array;
    stored: its type on the disk; given: the type `read` gives.  A row is the array, then a CRC-32 of row number and
    array: a row that was never written, or only in part, does not count.  Any number of processes may use one folder at
    the same time; each writes the rows it computed.  The file grows as rows come (a sparse file); `bytes_per_view` and
    `rows` give its final size.
    Raises ConfigError for another identity, DataError where the folder cannot be read or written (a full disk).
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], *, rows: int, shape: tuple[int, ...],
                 stored: Any, given: Any, kept: Kept):
        self.folder, self.rows, self.kept, self._given = Path(folder), rows, kept, np.dtype(given)
        self._row = np.dtype([("values", np.dtype(stored).newbyteorder("<"), shape), ("check", "<u4")])
        self.hits = self.misses = 0
        try:
            make_folder(self.folder)
            self._claim({"version": VERSION, **identity, "rows": rows})
            self._file = os.open(self.folder / kept.file, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._file, rows * self._row.itemsize)
            view = mmap.mmap(self._file, rows * self._row.itemsize, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._failed(error) from error
        self._seen = np.frombuffer(view, dtype=self._row)
        logger.info("%s: %s of up to %d views, %d bytes each, %.1f MB in all", self.folder, kept.noun, rows,
                    self.bytes_per_view, rows * self.bytes_per_view / 1e6)

    @classmethod
    def of_codes(cls, folder: str | Path, identity: Mapping[str, Any], *, rows: int, patches: int,
                 num_codes: int) -> ViewCache:
        """Codes (patches,) of views, int64, kept in the smallest unsigned type that holds them."""
        return cls(folder, {**identity, "patches": patches, "num_codes": num_codes}, rows=rows, shape=(patches,),
                   stored=np.min_scalar_type(num_codes - 1), given=np.int64, kept=CODES)

    @classmethod
    def of_features(cls, folder: str | Path, identity: Mapping[str, Any], *, rows: int, patches: int, width: int,
                    dtype: str = "float32") -> ViewCache:
        """Features (patches, width) of views, float32, kept as `dtype`: float32 bit for bit, or rounded to float16."""
        return cls(folder, {**identity, "patches": patches, "width": width, "dtype": dtype}, rows=rows,
                   shape=(patches, width), stored=dtype, given=np.float32, kept=FEATURES)

    @property
    def bytes_per_view(self) -> int:
        """Bytes of one row."""
        return self._row.itemsize

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(arrays (B, *shape), whole bool (B,)): where `whole` is false the row is not there, and its array is 0."""
        found = self._seen[rows]  # a copy: what is checked is what is used
        whole = self._checks(rows, found["values"]) == found["check"]
        values = found["values"].astype(self._given)
        values[~whole] = 0
        self.hits += int(whole.sum())
        self.misses += int((~whole).sum())
        return values, whole

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Keep the arrays (B, *shape) of these rows."""
        self._write(rows, self._table(rows, values))

    def read_or_compute(self, rows: np.ndarray | None, images: np.ndarray,
                        compute: Callable[[np.ndarray], np.ndarray], *, whole_batches: bool = False) -> np.ndarray:
        """Arrays (B, *shape) of the views `images` with these rows; missing ones come from `compute`, and are kept.

        compute: images to their arrays; it gets those that are missing, or with `whole_batches` all where one is.  What
        it gives for a view must not depend on the others that it gets, or on what was kept of them.
        Raises ShapeError where not each image has a row.
        """
        if rows is None or len(rows) != len(images):
            raise ShapeError(f"{self.kept.setting}: {len(images)} views came with the numbers of "
                             f"{0 if rows is None else len(rows)}; a cache needs one for each. Give the transform the "
                             "number of views.")
        values, whole = self.read(rows)
        if not whole.all():
            missing = ~whole
            fresh = compute(images)[missing] if whole_batches else compute(images[missing])
            table = self._table(rows[missing], fresh)
            self._write(rows[missing], table)
            values[missing] = table["values"].astype(self._given)  # as the next run will read them
        return values

    def _table(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        table = np.zeros(len(rows), dtype=self._row)
        table["values"] = values
        table["check"] = self._checks(rows, table["values"])
        return table

    def _write(self, rows: np.ndarray, table: np.ndarray) -> None:
        try:
            # By a write, not through the map: on a full disk a map kills the process (SIGBUS), a write raises an error.
            for row, content in zip(rows, table):
                if os.pwrite(self._file, content.tobytes(), int(row) * self._row.itemsize) != self._row.itemsize:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._failed(error) from error

    def share_read(self) -> float:
        """Share of the looked-up views since the last call that were in the cache."""
        asked, hits = self.hits + self.misses, self.hits
        self.hits = self.misses = 0
        return hits / max(asked, 1)

    def _checks(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        # never 0: that is what an unwritten row holds
        return np.asarray([zlib.crc32(int(row).to_bytes(8, "little") + one.tobytes()) or 1
                           for row, one in zip(rows, values)], dtype=np.uint32)

    def _claim(self, identity: dict[str, Any]) -> None:
        """Write the identity, or compare with the one that is there; of several processes one writes.

        It is on the disk before the first row: after a power cut no rows are left that another identity could claim.
        """
        path, mine = self.folder / IDENTITY, _of_today(json.loads(json.dumps(identity)))
        if not path.exists():
            write_text_once(path, json.dumps(mine, indent=1))
        try:
            there = _of_today(parse_json(path.read_text(encoding="utf-8")))
            changed = [f"{key}: {there.get(key)!r} -> {mine.get(key)!r}" for key in sorted({*there, *mine})
                       if there.get(key) != mine.get(key)]
        except (ValueError, AttributeError, TypeError):
            changed = [f"{IDENTITY} cannot be read"]
        if changed:
            raise ConfigError(f"{self.kept.setting}.path: {self.folder} holds {self.kept.noun} made otherwise "
                              f"({'; '.join(changed)}). Use the settings they were made with, another folder, or "
                              "delete this one.")

    def _failed(self, error: OSError) -> DataError:
        size = self.rows * self._row.itemsize / 1e6
        return DataError(f"{self.kept.setting}.path: {self.folder}: {error.strerror or error}. The {self.kept.noun} of "
                         f"all views take {size:.1f} MB there. Free space, give another folder, or set "
                         f"{self.kept.setting}=null; what was kept so far stays valid.")


def _of_today(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity in today's words: version 0.2 named the precision by the setting, had one runtime, and did not say
    whether photographs were turned."""
    amp = identity.pop("amp", "off")
    return {"precision": "f32" if amp == "off" else amp, "runtime": "paddle", "exif_orientation": False, **identity}
