"""Where the class token looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import Canvas, as_pictures, show


def attention_maps(images: np.ndarray, attention: np.ndarray, path: str | Path) -> None:
    """Each picture beside the attention of every head; `attention` (B, heads, rows, columns) of the class token."""
    pictures = as_pictures(images, "attention_maps")
    if attention.ndim != 4 or len(attention) != len(pictures):
        raise ShapeError(f"attention_maps: attention has shape {attention.shape}; expected "
                         f"({len(pictures)}, heads, rows, columns): the class token's row, as a grid.")
    heads = attention.shape[1]
    with Canvas(path, 1.35 * (heads + 1), 1.35 * len(pictures) + 0.4) as figure:
        grid = figure.subplots(len(pictures), heads + 1, squeeze=False)
        for i, picture in enumerate(pictures):
            show(grid[i, 0], picture, "picture" if i == 0 else None)
            for head in range(heads):
                show(grid[i, head + 1], attention[i, head], f"head {head}" if i == 0 else None, cmap="magma", vmin=0)
