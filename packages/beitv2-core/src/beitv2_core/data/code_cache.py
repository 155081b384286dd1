# SPDX-License-Identifier: Apache-2.0
"""Codes of views that were tokenized before, in a file: a row a view, each with its own checksum."""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError

logger = logging.getLogger("beitv2_core")

VERSION = 1
IDENTITY, CODES = "identity.json", "codes.bin"


class CodeCache:
    """Codes of `rows` views with `patches` codes each, kept in `folder` beside an identity of what they depend on.

    identity: plain values; a folder made for another one is refused, with what differs.  A row is the codes in the
    smallest unsigned type, then a CRC-32 of row number and codes: a row that was never written, or only in part, does
    not count.  Any number of processes may use one folder at the same time; each writes the rows it computed.  The file
    grows as rows come (a sparse file); `bytes_per_view` and `rows` give its final size.
    Raises ConfigError for another identity, DataError where the folder cannot be read or written (a full disk).
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], *, rows: int, patches: int, num_codes: int):
        self.folder, self.rows, self.patches, self.num_codes = Path(folder), rows, patches, num_codes
        code = np.min_scalar_type(num_codes - 1).newbyteorder("<")
        self._row = np.dtype([("codes", code, (patches,)), ("check", "<u4")])
        self.hits = self.misses = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim({"version": VERSION, **identity, "rows": rows, "patches": patches, "num_codes": num_codes})
            self._file = os.open(self.folder / CODES, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._file, rows * self._row.itemsize)
            view = mmap.mmap(self._file, rows * self._row.itemsize, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._failed(error) from error
        self._seen = np.frombuffer(view, dtype=self._row)
        logger.info("%s: codes of up to %d views, %d bytes each, %.1f MB in all", self.folder, rows,
                    self.bytes_per_view, rows * self.bytes_per_view / 1e6)

    @property
    def bytes_per_view(self) -> int:
        """Bytes of one row."""
        return self._row.itemsize

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes int64 (B, N), whole bool (B,)): where `whole` is false the row is not there, and its codes are 0."""
        found = self._seen[rows]  # a copy: what is checked is what is used
        whole = self._checks(rows, found["codes"]) == found["check"]
        codes = np.where(whole[:, None], found["codes"].astype(np.int64), 0)
        self.hits += int(whole.sum())
        self.misses += int((~whole).sum())
        return codes, whole

    def write(self, rows: np.ndarray, codes: np.ndarray) -> None:
        """Keep codes (B, N) of these rows."""
        table = np.zeros(len(rows), dtype=self._row)
        table["codes"] = codes
        table["check"] = self._checks(rows, table["codes"])
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

    def _checks(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        # never 0: that is what an unwritten row holds
        return np.asarray([zlib.crc32(int(row).to_bytes(8, "little") + one.tobytes()) or 1
                           for row, one in zip(rows, codes)], dtype=np.uint32)

    def _claim(self, identity: dict[str, Any]) -> None:
        """Write the identity, or compare with the one that is there; of several processes one writes."""
        path, mine = self.folder / IDENTITY, _of_today(json.loads(json.dumps(identity)))
        if not path.exists():
            temporary = self.folder / f".{IDENTITY}.{os.getpid()}.tmp"
            temporary.write_text(json.dumps(mine, indent=1), encoding="utf-8")
            try:
                os.link(temporary, path)  # fails where another process was first
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links; the last of several equal ones stays
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        try:
            there = _of_today(json.loads(path.read_text(encoding="utf-8")))
            changed = [f"{key}: {there.get(key)!r} -> {mine.get(key)!r}" for key in sorted({*there, *mine})
                       if there.get(key) != mine.get(key)]
        except (ValueError, AttributeError):
            changed = [f"{IDENTITY} cannot be read"]
        if changed:
            raise ConfigError(f"tokenizer.cache.path: {self.folder} holds codes made otherwise ({'; '.join(changed)}). "
                              "Use the settings they were made with, another folder, or delete this one.")

    def _failed(self, error: OSError) -> DataError:
        size = self.rows * self._row.itemsize / 1e6
        return DataError(f"tokenizer.cache.path: {self.folder}: {error.strerror or error}. The codes of all views take "
                         f"{size:.1f} MB there. Free space, give another folder, or set tokenizer.cache=null; what was "
                         "kept so far stays valid.")


def _of_today(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity in today's words: version 0.2 named the precision by the setting, and had one runtime."""
    amp = identity.pop("amp", "off")
    return {"precision": "f32" if amp == "off" else amp, "runtime": "paddle", **identity}
