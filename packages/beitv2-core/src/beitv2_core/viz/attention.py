# SPDX-License-Identifier: Apache-2.0
"""Where the class token looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import HEAT, Canvas, as_images, cell_width, show

#: with more heads than this an image takes several rows
HEADS_IN_A_ROW = 8


def attention_maps(images: np.ndarray, attention: np.ndarray, path: str | Path, *, block: int | None = None) -> None:
    """Each image, the mean over its heads as light on it, and every head's map.

    images: uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1]; attention: (B, heads, rows, columns), what the class
    token gives to every patch.  block: whose attention it is, None for the last.  Each map is scaled to its own largest
    value.  Raises ShapeError where they do not fit.
    """
    pixels = as_images(images, "attention_maps")
    attention = np.asarray(attention, dtype=np.float64)
    if attention.ndim != 4 or len(attention) != len(pixels) or not attention.size:
        raise ShapeError(f"attention_maps: attention has shape {attention.shape}; expected "
                         f"({len(pixels)}, heads, rows, columns): the class token's row, as a grid.")
    if not np.isfinite(attention).all() or attention.min() < 0:
        raise ShapeError("attention_maps: attention holds negative or non-finite values; expected "
                         "what a softmax gives.")
    heads = attention.shape[1]
    lines = -(-heads // HEADS_IN_A_ROW)  # rows that the heads of one image take
    per_row = -(-heads // lines)
    columns = per_row + 2 * lines  # image and mean are `lines` cells wide and high
    side = 1.15 if lines == 1 else 0.9
    width = cell_width(pixels.shape, side)
    with Canvas(path, width * columns + 0.3, side * lines * len(pixels) + 0.9,
                title=f"Attention of the class token, {'last block' if block is None else f'block {block}'}; each map "
                      "scaled to its own maximum (light in the mean, dark in a head)") as figure:
        grid = figure.add_gridspec(lines * len(pixels), columns)
        for i, image in enumerate(pixels):
            rows = slice(i * lines, (i + 1) * lines)
            show(figure.add_subplot(grid[rows, :lines]), image, "image" if i == 0 else None)
            show(figure.add_subplot(grid[rows, lines:2 * lines]), lit(image, attention[i].mean(0)),
                 "mean of heads" if i == 0 else None)
            for head in range(heads):
                row, column = divmod(head, per_row)
                axes = figure.add_subplot(grid[i * lines + row, 2 * lines + column])
                show(axes, attention[i, head], f"head {head + 1}" if i == 0 or lines > 1 else None, cmap=HEAT, vmin=0,
                     vmax=max(attention[i, head].max(), 1e-12), aspect="auto")
                axes.set_box_aspect(image.shape[0] / image.shape[1])


def heat_pixels(weight: np.ndarray) -> np.ndarray:
    """One head's map (rows, columns), scaled to its largest value, as colours uint8 (rows, columns, 3)."""
    return np.rint(255 * HEAT(weight / max(weight.max(), 1e-12))[..., :3]).astype(np.uint8)


def lit(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The image (H, W, 3), dark where the weight (rows, columns) is small."""
    height, width = image.shape[:2]
    rows = np.arange(height) * weight.shape[0] // height
    columns = np.arange(width) * weight.shape[1] // width
    light = (weight / max(weight.max(), 1e-12))[rows][:, columns, None]
    return (image * (0.15 + 0.85 * light)).astype(np.uint8)
