"""Pictures of a codebook: how often codes are used, what they stand for, where they fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import ACCENT, SECOND, Canvas, as_pictures, show


def perplexity(counts: np.ndarray) -> float:
    """exp of the entropy of counts (K,)."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))


def code_histogram(counts: np.ndarray, path: str | Path, *, title: str | None = None) -> None:
    """Share of patches per code, most used first; `counts` (K,)."""
    counts = np.asarray(counts)
    if counts.ndim != 1:
        raise ShapeError(f"code_histogram: counts have shape {counts.shape}; expected one number per code.")
    used = int((counts > 0).sum())
    share = np.sort(counts)[::-1] / max(counts.sum(), 1)
    with Canvas(path, 7, 3.2) as figure:
        axes = figure.subplots()
        axes.fill_between(np.arange(len(share)), share * 100, step="mid", color=ACCENT, alpha=0.75, linewidth=0)
        axes.axhline(100 / len(share), color=SECOND, linewidth=1, label="all codes equally often")
        axes.set(xlabel="code, most used first", ylabel="% of patches", xlim=(0, len(share) - 1), ylim=(0, None),
                 title=title or f"{used} of {len(counts)} codes used, perplexity {perplexity(counts):.1f}")
        axes.legend(frameon=False)


def position_histogram(histogram_NK: np.ndarray, grid: tuple[int, int], path: str | Path) -> None:
    """Perplexity of the codes at every position of the grid; `histogram_NK` (N, K) counts."""
    if histogram_NK.ndim != 2 or histogram_NK.shape[0] != grid[0] * grid[1]:
        raise ShapeError(f"position_histogram: counts have shape {histogram_NK.shape}, the grid {grid} has "
                         f"{grid[0] * grid[1]} positions; expected (positions, codes).")
    values = np.array([perplexity(row) for row in histogram_NK]).reshape(grid)
    with Canvas(path, 4.2, 3.6) as figure:
        axes = figure.subplots()
        show(axes, values, "codes in use at each position (perplexity)", cmap="viridis", vmin=0)
        figure.colorbar(axes.images[0], ax=axes, shrink=0.85)


def code_gallery(patches_by_code: dict[int, list[np.ndarray]], counts: np.ndarray, path: str | Path) -> None:
    """For each code a row of the patches nearest to it (uint8 (h, w, 3)), most used codes first, in two columns."""
    if not patches_by_code:
        raise ShapeError("code_gallery: no code has a patch. Tokenize some pictures first.")
    codes = sorted(patches_by_code, key=lambda code: -counts[code])
    half = (len(codes) + 1) // 2
    columns = [("most used codes", codes[:half]), ("least used codes", codes[half:])]
    wide = max(len(patches) for patches in patches_by_code.values())
    with Canvas(path, 2 * (wide * 0.42 + 1.3), half * 0.45 + 0.5) as figure:
        parts: Any = figure.subfigures(1, 2)
        for part, (title, chosen) in zip(parts, columns):
            part.suptitle(title, fontsize=10)
            grid = part.subplots(half, wide, squeeze=False)
            for row, axes_row in enumerate(grid):
                for column, axes in enumerate(axes_row):
                    axes.set_axis_off()
                    if row < len(chosen) and column < len(patches_by_code[chosen[row]]):
                        axes.imshow(patches_by_code[chosen[row]][column], interpolation="nearest")
                if row < len(chosen):
                    code = chosen[row]
                    axes_row[0].text(-0.15, 0.5, f"{code}\n{int(counts[code])} x", ha="right", va="center", fontsize=7,
                                     transform=axes_row[0].transAxes)


def code_map(images: np.ndarray, codes: np.ndarray, path: str | Path, *, num_codes: int | None = None) -> None:
    """Each picture above its codes (B, h, w), every code in a colour of its own."""
    pictures = as_pictures(images, "code_map")
    if codes.ndim != 3 or len(codes) != len(pictures):
        raise ShapeError(f"code_map: codes have shape {codes.shape}; expected ({len(pictures)}, rows, columns).")
    size = num_codes or int(codes.max()) + 1
    # Neighbouring numbers are unrelated codes: a fixed shuffle keeps them apart in colour, the same in every figure.
    place = np.random.RandomState(0).permutation(size) / max(size - 1, 1)
    colours = colormaps["nipy_spectral"](0.05 + 0.9 * place)[:, :3]
    with Canvas(path, 1.5 * len(pictures), 3.2) as figure:
        grid = figure.subplots(2, len(pictures), squeeze=False)
        for i, picture in enumerate(pictures):
            show(grid[0, i], picture)
            show(grid[1, i], colours[codes[i]])
            if max(codes.shape[1:]) <= 8:
                for (row, column), code in np.ndenumerate(codes[i]):
                    dark = colours[code].mean() < 0.5
                    grid[1, i].text(column, row, str(code), ha="center", va="center", fontsize=6,
                                    color="white" if dark else "black")
        figure.suptitle("pictures and their codes", fontsize=10)
