# SPDX-License-Identifier: Apache-2.0
"""Sizes in pixels or patches."""

from __future__ import annotations

from collections.abc import Sequence

#: most pixels of an image file that is decoded: Pillow's own limit (a quarter of a gigabyte of RGB)
MAX_PIXELS = 2**30 // 12


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)
