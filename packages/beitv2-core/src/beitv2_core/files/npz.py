# SPDX-License-Identifier: Apache-2.0
"""Arrays of a .npz file that anybody may have written."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

#: bytes that a file may unpack to: this many for each of its own, and these beside
MOST_TIMES, SPARE = 64, 64 * 2**20


def open_npz(path: Path) -> Any:
    """`np.load` of a .npz file: nothing in it is executed, and a small file that unpacks to very much is a ValueError.

    What numpy and zipfile raise for a damaged file comes as it is.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    check_size(unpacked, os.path.getsize(path))
    return np.load(path, allow_pickle=False)


def check_size(unpacked: int, packed: int) -> None:
    """ValueError where a file of `packed` bytes says it holds `unpacked`, which no file written here does."""
    if unpacked > MOST_TIMES * packed + SPARE:
        raise ValueError(f"its {packed:,} bytes stand for {unpacked:,}; at most {MOST_TIMES} times as many are read")
