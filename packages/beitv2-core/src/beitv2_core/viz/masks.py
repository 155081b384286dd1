"""What is hidden from the student."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import Canvas, as_pictures, show


def mask_examples(images: np.ndarray, masks: np.ndarray, path: str | Path) -> None:
    """Each picture above what the student sees of it; `masks` (B, rows, columns) bool, True is hidden."""
    pictures = as_pictures(images, "mask_examples")
    if masks.ndim != 3 or len(masks) != len(pictures):
        raise ShapeError(f"mask_examples: masks have shape {masks.shape}; expected ({len(pictures)}, rows, columns).")
    height, width = pictures.shape[1] // masks.shape[1], pictures.shape[2] // masks.shape[2]
    with Canvas(path, 1.5 * len(pictures), 3.3) as figure:
        grid = figure.subplots(2, len(pictures), squeeze=False)
        for i, picture in enumerate(pictures):
            hidden = np.kron(masks[i], np.ones((height, width))).astype(bool)
            seen = picture.copy()
            seen[: hidden.shape[0], : hidden.shape[1]][hidden] = 190
            show(grid[0, i], picture)
            show(grid[1, i], seen)
        title = f"pictures, and the same with {int(masks[0].sum())} of {masks[0].size} patches hidden"
        figure.suptitle(title, fontsize=10)
