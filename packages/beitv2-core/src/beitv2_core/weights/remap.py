# SPDX-License-Identifier: Apache-2.0
"""Position terms of a checkpoint made for another image size, and a shared bias given to every block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from beitv2_core.errors import CheckpointError
from beitv2_core.rel_pos_index import EXTRA_ROWS as EXTRA

SHARED = "rel_pos_bias.relative_position_bias_table"
Grid = tuple[int, int]


def resize_rel_pos_bias(table: NDArray[Any], source: Grid, target: Grid) -> NDArray[Any]:
    """A relative position bias table (offsets + 3, heads) of a grid of patches, for another grid.

    Offsets are laid out in geometric progression per axis, so that near neighbours keep their biases, and read by a
    bicubic spline; an equal grid gives the table itself.  Raises CheckpointError where the table is not of `source`.
    Source: official run_class_finetuning.py (the `geometric_progression` block); its scipy routine `interp2d` left
    SciPy 1.14, this spline equals it to 6e-8.
    Departs: each axis has its own progression, so that windows need not be square (official: square only).
    """
    rows, columns = 2 * source[0] - 1, 2 * source[1] - 1
    if table.shape[0] != rows * columns + EXTRA:
        raise CheckpointError(
            f"relative position bias: the table has {table.shape[0]} rows, a grid of {source[0]} x {source[1]} patches "
            f"has {rows * columns + EXTRA}. Give the grid the checkpoint was made for."
        )
    if source == target:
        return table
    (y, new_y), (x, new_x) = (_places(old, new) for old, new in zip(source, target))
    offsets = table[:-EXTRA].reshape(rows, columns, -1).astype(np.float64)
    resized = [RectBivariateSpline(y, x, offsets[:, :, head], kx=min(3, rows - 1), ky=min(3, columns - 1), s=0)(
        new_y, new_x).reshape(-1) for head in range(table.shape[1])]
    whole: NDArray[Any] = np.concatenate([np.stack(resized, axis=1), table[-EXTRA:]]).astype(table.dtype)
    return whole


def _places(old: int, new: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where the 2 old - 1 offsets of one axis lie, and the 2 new - 1 places to read, inside them."""
    half, reach = old - 1, new - 1
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**half) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum(ratio ** np.arange(half)) if half else np.zeros(0)
    known = np.concatenate([-steps[::-1], [0.0], steps])
    return known, np.clip(np.arange(-reach, reach + 1, dtype=np.float64), known[0], known[-1])


def expand_shared_bias(weights: Mapping[str, NDArray[Any]], depth: int) -> dict[str, NDArray[Any]]:
    """`weights` with the shared bias table copied into each of `depth` blocks; unchanged where there is none."""
    expanded = {name: array for name, array in weights.items() if name != SHARED}
    if SHARED in weights:
        for block in range(depth):
            expanded[f"blocks.{block}.attn.relative_position_bias_table"] = weights[SHARED].copy()
    return expanded
