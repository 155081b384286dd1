# SPDX-License-Identifier: Apache-2.0
"""What is hidden from the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import ACCENT, Canvas, as_images, cell_width, name_row, show

HIDDEN = 190  # grey level of a hidden patch


def mask_examples(images: np.ndarray, masks: np.ndarray, path: str | Path) -> None:
    """Each image, the image with its mask laid over, and what is left of it, in a column.

    images: uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1]; masks: bool (B, rows, columns), True is hidden.
    Raises ShapeError where they do not fit.
    """
    pixels = as_images(images, "mask_examples")
    masks = np.asarray(masks)
    if masks.ndim != 3 or len(masks) != len(pixels) or not masks.size:
        raise ShapeError(f"mask_examples: masks have shape {masks.shape}; expected ({len(pixels)}, rows, columns).")
    side = 1.45
    with Canvas(path, cell_width(pixels.shape, side) * len(pixels) + 0.9, 3 * side + 0.6,
                title=f"Masks: {_hidden(masks)} of {masks[0].size} patches hidden") as figure:
        grid = figure.subplots(3, len(pixels), squeeze=False)
        for i, image in enumerate(pixels):
            hidden = enlarge(masks[i].astype(bool), image.shape[:2])
            for axes, shown in zip(grid[:, i], (image, tinted(image, hidden), covered(image, hidden))):
                show(axes, shown)
        for axes, name in zip(grid[:, 0], ("image", "mask", "what the\nbackbone sees")):
            name_row(axes, name)


def enlarge(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (rows, columns) as pixels (H, W); ShapeError where the image is no whole number of patches."""
    rows, columns = mask.shape
    if size[0] % rows or size[1] % columns:
        raise ShapeError(f"mask_examples: a mask of {rows} x {columns} patches does not divide an image of "
                         f"{size[0]} x {size[1]} pixels. Give the mask of these images.")
    return np.kron(mask, np.ones((size[0] // rows, size[1] // columns), dtype=bool))


def tinted(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) with its hidden pixels (H, W) under a coloured glass."""
    glass = np.asarray(to_rgb(ACCENT)) * 255
    grey = image.mean(-1, keepdims=True)  # the image's own colours would change the tint
    return np.where(hidden[..., None], 0.35 * grey + 0.65 * glass, image).astype(np.uint8)


def covered(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) with its hidden pixels (H, W) grey."""
    return np.where(hidden[..., None], np.uint8(HIDDEN), image)


def _hidden(masks: np.ndarray) -> str:
    low, high = int(masks.sum((1, 2)).min()), int(masks.sum((1, 2)).max())
    return str(low) if low == high else f"{low} to {high}"
