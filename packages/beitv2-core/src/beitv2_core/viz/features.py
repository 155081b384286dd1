# SPDX-License-Identifier: Apache-2.0
"""Patch features as pictures: principal components as colours, and the similarity to one patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patches import Rectangle

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import HEAT, Canvas, as_images, cell_width, name_row, show

#: with more images than this a figure takes several lines
IMAGES_IN_A_LINE = 8
#: per cent of the patches that are darker than 0 or brighter than 1, on each side
CLIPPED = 1.0
#: level of what is not foreground
GROUND = 1.0


class Components(NamedTuple):
    """The first principal components of patch features, as colours.

    colours: float32 (B, rows, columns, 3) in [0, 1]: the first component is red, the second green, the third blue.
    explained: their shares of the variance.  foreground: bool (B, rows, columns), the patches that have a colour.
    """

    colours: np.ndarray
    explained: tuple[float, ...]
    foreground: np.ndarray


def component_colours(features: np.ndarray, *, foreground: bool = False) -> Components:
    """The three principal components of the patches of all images together, so a colour means the same in each.

    features: (B, rows, columns, D).  Each component is scaled so that its 1st and 99th percentile are 0 and 1; it has
    the sign that makes its largest weight positive, so equal features give equal colours.  A component that does not
    exist (fewer than three patches or values, or constant features) is 0.5.
    foreground: colour one side of the first component only, the one that is rarer at the borders of the images, by
    components of these patches alone; the rest is white.
    Raises ShapeError for another shape and for values that are not finite.
    Source: DINOv2 (arXiv 2304.07193), figure 1.  Departs: there the side of the foreground is chosen by hand, and the
    scale is the whole range, which one outlier spoils.
    """
    features = _grid_of(features, "component_colours")
    rows = features.reshape(-1, features.shape[-1])
    scores, explained = _components(rows)
    inside = np.ones(features.shape[:3], dtype=bool)
    if foreground and scores[:, 0].any():
        inside = _foreground(scores[:, 0].reshape(inside.shape))
        scores, explained = _components(rows[inside.reshape(-1)])
    colours = np.full((*inside.shape, 3), GROUND, dtype=np.float32)
    colours[inside] = _scaled(scores)
    return Components(colours, explained, inside)


def patch_similarity(features: np.ndarray, patches: Sequence[tuple[int, int]], *, across: bool = False) -> np.ndarray:
    """Cosine (B, rows, columns) of the features of every patch with those of one patch of the same image.

    features: (B, rows, columns, D); patches: (row, column) from 0, one an image.  across: compare the patches of all
    images with the first image's.  Features of length 0 have the cosine 0.
    Raises ShapeError for another shape, values that are not finite, and patches outside the grid.
    """
    unit = _unit(_grid_of(features, "patch_similarity"))
    count, rows, columns = unit.shape[:3]
    if len(patches) != count:
        raise ShapeError(f"patch_similarity: {len(patches)} patches for {count} images; expected one an image.")
    for row, column in patches:
        if not (0 <= row < rows and 0 <= column < columns):
            raise ShapeError(f"patch_similarity: patch {row} {column}: the grid has rows 0 .. {rows - 1} and columns "
                             f"0 .. {columns - 1}.")
    chosen = np.stack([unit[i, row, column] for i, (row, column) in enumerate(patches)])
    return np.einsum("brcd,bd->brc", unit, np.broadcast_to(chosen[:1], chosen.shape) if across else chosen)


def all_similarities(features: np.ndarray) -> np.ndarray:
    """Cosines (N, N) of all patches of one image, row by row; features: (rows, columns, D)."""
    unit = _unit(_grid_of(np.asarray(features)[None], "all_similarities"))[0]
    unit = unit.reshape(-1, unit.shape[-1])
    return unit @ unit.T


def feature_components(images: np.ndarray, components: Components, path: str | Path) -> None:
    """Each image above the colours of its patches.  images: uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1]."""
    pixels = as_images(images, "feature_components")
    _check_maps(pixels, components.colours[..., 0], "feature_components", "colours")
    shares = ", ".join(f"{100 * share:.0f}" for share in components.explained)
    what = "patch features" if components.foreground.all() else "the foreground's patch features"

    def draw(axes: Any, i: int) -> None:
        show(axes, components.colours[i], aspect="auto")

    _paired(pixels, path, f"Principal components of {what}: {shares} % of the variance", draw, "components")


def similarity_maps(images: np.ndarray, maps: np.ndarray, patches: Sequence[tuple[int, int]], path: str | Path, *,
                    across: bool = False) -> None:
    """Each image, its chosen patch framed, above the cosine of every patch with it.

    maps: (B, rows, columns), as `patch_similarity` gives them; across: the first image's patch was compared with all.
    White is the smallest cosine of the image, or across images of all, dark the largest; both are written below.
    """
    pixels = as_images(images, "similarity_maps")
    maps = np.asarray(maps)
    _check_maps(pixels, maps, "similarity_maps", "maps")
    height, width = pixels.shape[1] / maps.shape[1], pixels.shape[2] / maps.shape[2]

    def frame(axes: Any, i: int) -> None:
        if across and i:
            return
        row, column = patches[i]
        corner = (column * width - 0.5, row * height - 0.5)
        for colour, line in (("black", 3.0), ("white", 1.2)):
            axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line))

    def draw(axes: Any, i: int) -> None:
        scale = maps if across else maps[i]
        low, high = float(scale.min()), float(scale.max())
        show(axes, maps[i], cmap=HEAT, vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
        axes.set_xlabel(f"{low:.2f} to {high:.2f}", fontsize=7, labelpad=2)

    whose = "the framed patch of the first image" if across and len(pixels) > 1 else "the framed patch"
    _paired(pixels, path, f"Cosine of patch features with {whose}: dark is near", draw, "similarity", mark=frame)


def _paired(pixels: np.ndarray, path: str | Path, title: str, draw: Callable[[Any, int], None], name: str, *,
            mark: Callable[[Any, int], None] | None = None) -> None:
    """Images, with what `mark` puts on them, above what is drawn of them: some a line."""
    lines = -(-len(pixels) // IMAGES_IN_A_LINE)
    columns = -(-len(pixels) // lines)
    side = 1.5
    width = max(cell_width(pixels.shape, side) * columns + 0.7, 0.08 * len(title))
    with Canvas(path, width, 2 * side * lines + 0.5, title=title) as figure:
        grid = figure.subplots(2 * lines, columns, squeeze=False)
        for i in range(lines * columns):
            above, below = grid[2 * (i // columns), i % columns], grid[2 * (i // columns) + 1, i % columns]
            if i >= len(pixels):
                above.remove()
                below.remove()
                continue
            show(above, pixels[i])
            if mark is not None:
                mark(above, i)
            draw(below, i)
            below.set_box_aspect(pixels.shape[1] / pixels.shape[2])  # patches need not be square
            if i % columns == 0:
                name_row(above, "image")
                name_row(below, name)


def _components(rows: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """The first three principal components (patches, 3) of features (patches, D), 0 where there is none; shares."""
    from sklearn.decomposition import PCA

    scores = np.zeros((len(rows), 3))
    count = min(3, *rows.shape)
    if not (rows.max(0) > rows.min(0)).any():
        return scores, (0.0, 0.0, 0.0)
    pca = PCA(n_components=count, svd_solver="full").fit(rows)
    weights = pca.components_
    largest = np.abs(weights).argmax(axis=1)
    signs = np.sign(weights[np.arange(count), largest])
    scores[:, :count] = pca.transform(rows) * signs
    shares = [float(share) for share in pca.explained_variance_ratio_]
    return scores, (*shares, *[0.0] * (3 - count))


def _foreground(first: np.ndarray) -> np.ndarray:
    """The side of the first component (B, rows, columns), not all 0, that has less of its patches at a border."""
    positive = first > 0
    border = np.ones(first.shape, dtype=bool)
    border[:, 1:-1, 1:-1] = False
    return positive if border[positive].mean() <= border[~positive].mean() else ~positive


def _scaled(scores: np.ndarray) -> np.ndarray:
    """Scores (patches, 3), each column scaled to [0, 1]; a constant column is 0.5."""
    low, high = np.percentile(scores, [CLIPPED, 100 - CLIPPED], axis=0)
    flat = high - low < 1e-9 * max(float(np.abs(scores).max()), 1e-30)
    scaled = np.clip((scores - low) / np.where(flat, 1.0, high - low), 0, 1)
    return np.where(flat, 0.5, scaled).astype(np.float32)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _grid_of(features: np.ndarray, where: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 4 or not features.size:
        raise ShapeError(f"{where}: features have shape {features.shape}; expected (images, rows, columns, width): "
                         "patch features as a grid.")
    if not np.isfinite(features).all():
        raise ShapeError(f"{where}: features hold non-finite values. Check the model's weights.")
    return features


def _check_maps(pixels: np.ndarray, maps: np.ndarray, where: str, what: str) -> None:
    if maps.ndim != 3 or len(maps) != len(pixels):
        raise ShapeError(f"{where}: {what} have shape {maps.shape}; expected ({len(pixels)}, rows, columns), one for "
                         "each image.")
