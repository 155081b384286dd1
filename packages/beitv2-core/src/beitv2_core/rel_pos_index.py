# SPDX-License-Identifier: Apache-2.0
"""The index of relative positions over a window of patches and one class token; any room may use it.

Shape suffixes: T tokens = 1 + gh * gw.
"""

from __future__ import annotations

import math

import numpy as np

EXTRA_ROWS = 3  # rows of a bias table besides the offsets: class to patch, patch to class, class to class


def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """Row of the bias table for every pair (query, key) of tokens, (T, T) int64.

    The last three rows of the table serve class -> patch, patch -> class and class -> class, in this order.
    Source: official modeling_finetune.py, RelativePositionBias.__init__.
    """
    gh, gw = grid
    rows = table_rows(grid)
    y, x = (axis.reshape(-1) for axis in np.meshgrid(np.arange(gh), np.arange(gw), indexing="ij"))
    index = np.empty((gh * gw + 1, gh * gw + 1), dtype=np.int64)
    index[1:, 1:] = (y[:, None] - y[None] + gh - 1) * (2 * gw - 1) + (x[:, None] - x[None] + gw - 1)
    index[0, :] = rows - 3
    index[:, 0] = rows - 2
    index[0, 0] = rows - 1
    return index


def table_rows(grid: tuple[int, int]) -> int:
    """Rows of the bias table of a window: one for every offset, and three for the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + EXTRA_ROWS


def window_of(rows: int, index: np.ndarray | None = None) -> tuple[int, int] | None:
    """The window (rows, columns of patches) of a bias table with that many rows; None where it cannot be told.

    A square window is found from the rows alone.  Another one needs the stored index (T, T) of its checkpoint, which
    also tells a window from its transposed one.
    """
    offsets = rows - EXTRA_ROWS
    side = math.isqrt(max(offsets, 0))
    square = ((side + 1) // 2,) * 2 if side * side == offsets and side % 2 else None
    if index is None or index.ndim != 2:
        return square
    patches = index.shape[0] - 1
    if square and square[0] * square[1] == patches:
        return square
    # (2a - 1)(2b - 1) = offsets and ab = patches give a + b, and so both.
    total = (4 * patches + 1 - offsets) // 2
    root = math.isqrt(max(total * total - 4 * patches, 0))
    low, high = (total - root) // 2, (total + root) // 2
    if low < 1 or low * high != patches or table_rows((low, high)) != rows:
        return None
    fitting = [grid for grid in {(low, high), (high, low)} if np.array_equal(relative_position_index(grid), index)]
    return fitting[0] if fitting else None
