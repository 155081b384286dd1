# SPDX-License-Identifier: Apache-2.0
"""Where the class token looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import HEAT, Canvas, as_pictures, cell_width, show

#: with more heads than this a picture takes several rows
HEADS_IN_A_ROW = 8


def attention_maps(images: np.ndarray, attention: np.ndarray, path: str | Path) -> None:
    """Each picture, the mean over its heads as light on it, and every head's map.

    images: uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1]; attention: (B, heads, rows, columns), what the class
    token gives to every patch.  Each map is scaled to its own largest value.  Raises ShapeError where they do not fit.
    """
    pictures = as_pictures(images, "attention_maps")
    attention = np.asarray(attention, dtype=np.float64)
    if attention.ndim != 4 or len(attention) != len(pictures) or not attention.size:
        raise ShapeError(f"attention_maps: attention has shape {attention.shape}; expected "
                         f"({len(pictures)}, heads, rows, columns): the class token's row, as a grid.")
    if not np.isfinite(attention).all() or attention.min() < 0:
        raise ShapeError("attention_maps: attention holds negative or non-finite values; expected "
                         "what a softmax gives.")
    heads = attention.shape[1]
    lines = -(-heads // HEADS_IN_A_ROW)  # rows that the heads of one picture take
    per_row = -(-heads // lines)
    columns = per_row + 2 * lines  # picture and mean are `lines` cells wide and high
    side = 1.15 if lines == 1 else 0.9
    width = cell_width(pictures.shape, side)
    with Canvas(path, width * columns + 0.3, side * lines * len(pictures) + 0.9,
                title="Attention of the class token, last block; each map scaled to its own maximum") as figure:
        grid = figure.add_gridspec(lines * len(pictures), columns)
        for i, picture in enumerate(pictures):
            rows = slice(i * lines, (i + 1) * lines)
            show(figure.add_subplot(grid[rows, :lines]), picture, "picture" if i == 0 else None)
            show(figure.add_subplot(grid[rows, lines:2 * lines]), lit(picture, attention[i].mean(0)),
                 "mean of heads" if i == 0 else None)
            for head in range(heads):
                row, column = divmod(head, per_row)
                axes = figure.add_subplot(grid[i * lines + row, 2 * lines + column])
                show(axes, attention[i, head], f"head {head}" if i == 0 or lines > 1 else None, cmap=HEAT, vmin=0,
                     vmax=max(attention[i, head].max(), 1e-12), aspect="auto")
                axes.set_box_aspect(picture.shape[0] / picture.shape[1])


def lit(picture: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3), dark where the weight (rows, columns) is small."""
    height, width = picture.shape[:2]
    rows = np.arange(height) * weight.shape[0] // height
    columns = np.arange(width) * weight.shape[1] // width
    light = (weight / max(weight.max(), 1e-12))[rows][:, columns, None]
    return (picture * (0.15 + 0.85 * light)).astype(np.uint8)
