# SPDX-License-Identifier: Apache-2.0
"""Figures of a codebook: how often codes are used, patches that have them, and their positions in the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb

from beitv2_core.engine.metrics import perplexity
from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import ACCENT, MUTED, SECOND, Canvas, as_images, cell_width, name_row, show
from beitv2_core.viz.features import component_colours

#: pixels of a patch in the gallery, at least
_GALLERY_PIXELS = 64
#: grey of the line round a patch
_FRAME = 160


def code_histogram(counts: np.ndarray, path: str | Path, *, title: str | None = None) -> None:
    """Share of patches per code, most used first; the title has codes used and perplexity.

    counts: (K,), how often each code was seen.  The scale is logarithmic where shares differ by more than 100.
    """
    counts = _counts(counts, "code_histogram")
    total, num_codes = counts.sum(), len(counts)
    used = int((counts > 0).sum())
    share = 100 * np.sort(counts)[::-1] / max(total, 1)
    facts = f"{used:,} of {num_codes:,} codes used, perplexity {perplexity(counts):,.1f}"
    with Canvas(path, 7, 3.3) as figure:
        axes = figure.subplots()
        axes.grid(axis="y")
        even = 100 / num_codes
        steep = used > 0 and share[0] > 100 * share[used - 1]
        floor = 0.6 * min(share[used - 1], even) if steep else 0.0
        # `used` steps only: on a logarithmic scale an unused code has no place.
        axes.stairs(share[:used] if steep else share, np.arange((used if steep else num_codes) + 1), baseline=floor,
                    fill=True, color=ACCENT, alpha=0.85)
        axes.axhline(even, color=SECOND, linewidth=1.2, label=f"all codes equally often ({even:.3g} %)")
        axes.set(xlabel="codes, most used first", ylabel="% of patches", xlim=(0, num_codes),
                 title=f"{title}: {facts}" if title else facts)
        if steep:
            axes.set_yscale("log")
            axes.set_ylabel("% of patches (logarithmic)")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(bottom=floor)
        if used < 0.98 * num_codes:
            axes.axvspan(used, num_codes, color=MUTED, alpha=0.12, linewidth=0)
            axes.text((used + num_codes) / 2, 0.5, f"{num_codes - used:,}\nunused", ha="center", va="center",
                      transform=axes.get_xaxis_transform(), color=MUTED, fontsize=8)
        # left of the unused codes, where the used ones leave it room
        axes.legend(loc="upper right", bbox_to_anchor=(used / num_codes if 2 * used > num_codes else 1.0, 1.0))


def code_gallery(patches_by_code: dict[int, list[np.ndarray]], counts: np.ndarray, path: str | Path) -> None:
    """For each code a row of its patches: the more used half of the codes on the left, the less used half on the right.

    patches_by_code: code -> patches uint8 (h, w, 3), all of one size, nearest to the code first; counts: (K,).
    """
    counts = _counts(counts, "code_gallery")
    if not patches_by_code:
        raise ShapeError("code_gallery: no code has a patch. Tokenize some images first.")
    outside = [code for code in patches_by_code if not 0 <= code < len(counts)]
    if outside:
        raise ShapeError(f"code_gallery: code {outside[0]} has patches, counts know codes 0 .. {len(counts) - 1}. "
                         "Give counts and patches of the same codebook.")
    shapes = {(np.shape(patch), np.asarray(patch).dtype.name) for row in patches_by_code.values() for patch in row}
    if len(shapes) != 1 or next(iter(shapes))[1] != "uint8" or not _is_image(next(iter(shapes))[0]):
        raise ShapeError(f"code_gallery: patches are {sorted(shapes)}; expected uint8 (h, w, 3), all of one size.")
    height, width = next(iter(shapes))[0][:2]
    codes = sorted(patches_by_code, key=lambda code: (-counts[code], code))
    half = (len(codes) + 1) // 2
    columns = [("Most used codes", codes[:half]), ("Least used codes", codes[half:])] if len(codes) > 1 else [
        ("The only code", codes)]
    wide = max(len(patches) for patches in patches_by_code.values())
    cell = 0.46  # inches
    with Canvas(path, len(columns) * (wide * cell * width / height + 1.5), half * cell + 0.8,
                title="Codes and the patches nearest to them, nearest first") as figure:
        grid = figure.subplots(1, len(columns), squeeze=False)[0]
        for axes, (title, chosen) in zip(grid, columns):
            sheet, pitch = _contact_sheet([patches_by_code[code] for code in chosen], (half, wide), (height, width))
            show(axes, sheet, interpolation="antialiased")
            axes.set_title(title)
            axes.set_yticks([(row + 0.5) * pitch for row in range(len(chosen))],
                            [_row_label(code, counts) for code in chosen])
            axes.tick_params(length=0)


def code_map(images: np.ndarray, codes: np.ndarray, codebook: np.ndarray, path: str | Path) -> None:
    """Each image above its codes, in the colours of `code_colours`; a code's number where there is room.

    images: uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1]; codes: integers (B, rows, columns); codebook: (K, C).
    Raises ShapeError for other shapes, and for codes that the codebook does not have.
    """
    pixels = as_images(images, "code_map")
    codes = np.asarray(codes)
    if codes.ndim != 3 or len(codes) != len(pixels) or not codes.size or not np.issubdtype(codes.dtype, np.integer):
        raise ShapeError(f"code_map: codes have shape {codes.shape} of {codes.dtype}; expected integers "
                         f"({len(pixels)}, rows, columns).")
    if codes.min() < 0 or codes.max() >= len(codebook):
        raise ShapeError(f"code_map: codes run from {codes.min()} to {codes.max()}; expected 0 .. {len(codebook) - 1}. "
                         "Give codes and codebook of the same tokenizer.")
    colours = code_colours(codebook)[codes]
    rows, columns = codes.shape[1:]
    side = 1.5
    distinct = len(np.unique(codes))
    with Canvas(path, cell_width(pixels.shape, side) * len(pixels) + 0.7, 2 * side + 0.5,
                title=f"Images and their codes: {distinct:,} of {len(codebook):,} codes in {len(pixels)} images"
                ) as figure:
        grid = figure.subplots(2, len(pixels), squeeze=False)
        for i, image in enumerate(pixels):
            show(grid[0, i], image)
            # Stretched to the image's shape: patches need not be square.
            show(grid[1, i], colours[i], aspect="auto")
            grid[1, i].set_box_aspect(image.shape[0] / image.shape[1])
            if max(rows, columns) <= 8:
                for (row, column), code in np.ndenumerate(codes[i]):
                    dark = colours[i, row, column] @ (0.3, 0.59, 0.11) < 0.55
                    grid[1, i].text(column, row, str(code), ha="center", va="center",
                                    color="white" if dark else "black",
                                    fontsize=7 if max(rows, columns) <= 4 and codes.max() < 1000 else 5)
        name_row(grid[0, 0], "image")
        name_row(grid[1, 0], "codes")


def code_colours(codebook: np.ndarray) -> np.ndarray:
    """Colours (K, 3) in [0, 1] of the codes of a codebook (K, C): its principal components.

    Codes that the tokenizer puts near each other look alike, in every figure of it.  Raises ShapeError as
    `component_colours`, whose source is DINOv2 (arXiv 2304.07193), figure 1.
    """
    return component_colours(np.asarray(codebook)[None, None]).colours[0, 0]


def palette(codes: np.ndarray) -> np.ndarray:
    """Colours (..., 3) in [0, 1] of codes (...): a function of the number alone, neighbours far apart in hue."""
    codes = np.asarray(codes, dtype=np.float64)
    # Multiples of the golden ratio never crowd: any run of numbers is spread evenly round the circle of hues.
    hue = codes * 0.6180339887498949 % 1
    saturation = 0.35 + 0.30 * (codes * 0.7548776662466927 % 1)
    value = 0.55 + 0.40 * (codes * 0.5698402909980532 % 1)
    return hsv_to_rgb(np.stack([hue, saturation, value], axis=-1))


def _row_label(code: int, counts: np.ndarray) -> str:
    return f"code {code}\n{int(counts[code]):,} ×"


def _contact_sheet(rows: list[list[Any]], size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Patches on white, each in a thin frame, enlarged by a whole factor; also the height of a row in pixels."""
    height, width = patch_size
    scale = max(1, -(-_GALLERY_PIXELS // height))
    gap = max(4, height * scale // 8)
    pitch_y, pitch_x = height * scale + gap, width * scale + gap
    sheet = np.full((size[0] * pitch_y, size[1] * pitch_x, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, patch in enumerate(row):
            top, left = i * pitch_y + gap // 2, j * pitch_x + gap // 2
            # A white patch would vanish on the white ground.
            sheet[top - 1:top + height * scale + 1, left - 1:left + width * scale + 1] = _FRAME
            sheet[top:top + height * scale, left:left + width * scale] = np.repeat(np.repeat(patch, scale, 0), scale, 1)
    return sheet, pitch_y


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] == 3 and min(shape) > 0


def _counts(counts: np.ndarray, where: str) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 1 or not counts.size or not np.isfinite(counts).all() or counts.min() < 0:
        raise ShapeError(f"{where}: counts have shape {counts.shape} of {counts.dtype}; expected one number per code, "
                         "none negative.")
    return counts
