# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/method.svg, the two stages of BEiT v2: python docs/make_method_figure.py

The image and its codes are one of docs/images/codes.png, which `beitv2 report` drew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IMAGES = Path(__file__).with_name("images")
#: left, top, right, bottom of the fifth image of codes.png, and of its codes, in pixels
IMAGE, CODES = (863, 43, 1049, 229), (863, 256, 1049, 442)
PIXELS, GRID = 48, 16
#: patches that are hidden, as (row, column): two fifths, in a block
HIDDEN = {(row, column) for row in range(3, 13) for column in range(4, 14)}
#: vectors of the codebook that are shown
VECTORS = 13
TILE = 104
BOX, FROZEN, LOSS, LINE = "#dbe7f6", "#e6e6e6", "#f7e3c4", "#3c4a5c"


def colours(box: tuple[int, int, int, int], cells: int) -> list[list[str]]:
    """Rows of colours: a part of codes.png in cells x cells, each by the median of its pixels."""
    with Image.open(IMAGES / "codes.png") as opened:
        part: NDArray[np.uint8] = np.asarray(opened.convert("RGB").crop(box))
    edges = np.linspace(0, len(part), cells + 1).round().astype(int)
    rows = []
    for top, bottom in zip(edges, edges[1:]):
        found = [np.median(part[top:bottom, left:right], axis=(0, 1)) for left, right in zip(edges, edges[1:])]
        rows.append(["#" + "".join(f"{int(value) // 17:x}" for value in one) for one in found])
    return rows


def tile(x: float, y: float, rows: list[list[str]], *, hidden: Iterable[tuple[int, int]] = (), only: bool = False,
         ) -> list[str]:
    """A square picture; hidden patches are grey, or, with `only`, all others are left out."""
    hidden = set(hidden)
    cells: dict[str, list[str]] = {}  # by colour: one path for each keeps the file small
    for i, row in enumerate(rows):
        for j, colour in enumerate(row):
            covered = (i * GRID // len(rows), j * GRID // len(rows)) in hidden
            if covered is only or not hidden:
                cells.setdefault(colour, []).append(f"M{j} {i}h1v1h-1z")
    parts = [f'<g transform="translate({x:g} {y:g}) scale({TILE / len(rows):.5g})" shape-rendering="crispEdges">',
             *(f'<path fill="{colour}" d="{"".join(path)}"/>' for colour, path in cells.items()), "</g>",
             f'<g transform="translate({x:g} {y:g}) scale({TILE / GRID:g})">']
    if hidden and not only:
        squares = "".join(f"M{column} {row}h1v1h-1z" for row, column in sorted(hidden))
        parts.append(f'<path fill="#8b939d" d="{squares}"/>')
    lines = "".join(f"M0 {one}h{GRID}M{one} 0v{GRID}" for one in range(GRID + 1))
    parts += [f'<path d="{lines}" fill="none" stroke="#ffffff" stroke-width="0.06"/>', "</g>",
              f'<rect x="{x:g}" y="{y:g}" width="{TILE}" height="{TILE}" fill="none" stroke="#9aa4b0"/>']
    return parts


def box(x: float, y: float, width: float, lines: str, fill: str = BOX, height: float = 56) -> list[str]:
    """A box with lines of text, separated by |, in its middle."""
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" stroke="{LINE}"/>']
    written = lines.split("|")
    for number, line in enumerate(written):
        parts += text(x + width / 2, y + height / 2 + 5 + (number - (len(written) - 1) / 2) * 17, line, "middle",
                      bold=number == 0)
    return parts


def text(x: float, y: float, words: str, anchor: str = "start", *, size: int = 14, bold: bool = False) -> list[str]:
    weight = ' font-weight="600"' if bold else ""
    return [f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}>{words}</text>']


def arrow(*points: tuple[float, float], dashed: bool = False) -> list[str]:
    path = " ".join(f"{'M' if number == 0 else 'L'}{x:g} {y:g}" for number, (x, y) in enumerate(points))
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return [f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.8"{dashes} marker-end="url(#tip)"/>']


def figure() -> str:
    """The whole drawing."""
    image, codes = colours(IMAGE, PIXELS), colours(CODES, GRID)
    used = list(dict.fromkeys(colour for row in codes for colour in row))
    book = used[::len(used) // VECTORS][:VECTORS]
    parts = text(24, 34, "Stage 1: the tokenizer learns codes from a teacher", size=18, bold=True)
    top = 62.0
    parts += tile(24, top, image) + text(24 + TILE / 2, top + TILE + 18, "image, patches", "middle")
    parts += arrow((134, top + 52), (160, top + 52)) + box(164, top + 24, 110, "encoder")
    parts += arrow((274, top + 52), (302, top + 52))
    parts += box(306, top + 10, 150, "nearest vector||of the codebook", height=84)
    for number, colour in enumerate(book):
        parts.append(f'<rect x="{318 + 9.6 * number:g}" y="{top + 44:g}" width="8" height="16" fill="{colour}"/>')
    parts += arrow((456, top + 52), (484, top + 52)) + tile(488, top, codes)
    parts += text(488 + TILE / 2, top + TILE + 18, "codes", "middle")
    parts += arrow((598, top + 52), (624, top + 52)) + box(628, top + 24, 110, "decoder")
    parts += arrow((738, top + 52), (778, top + 52)) + box(782, top + 24, 236, "the teacher's features|cosine", LOSS)
    parts += box(488, top + 142, 250, "teacher, frozen|CLIP, DINO, HOG, any network", FROZEN)
    parts += arrow((76, top + 128), (76, top + 170), (484, top + 170))
    parts += arrow((738, top + 170), (900, top + 170), (900, top + 84))
    middle = 304.0
    parts.append(f'<path d="M24 {middle - 24:g} H1018" stroke="#c9d0d8"/>')
    parts += text(24, middle + 8, "Stage 2: the backbone predicts the codes of hidden patches", size=18, bold=True)
    top = middle + 34
    parts += tile(24, top, image, hidden=HIDDEN) + text(24 + TILE / 2, top + TILE + 18, "two fifths hidden", "middle")
    parts += arrow((134, top + 52), (160, top + 52)) + box(164, top + 10, 292, "backbone|vision transformer", height=84)
    parts += arrow((456, top + 52), (484, top + 52)) + tile(488, top, codes, hidden=HIDDEN, only=True)
    parts += text(488 + TILE / 2, top + TILE + 18, "predicted codes", "middle")
    parts += arrow((598, top + 52), (778, top + 52))
    parts += box(782, top + 24, 236, "the tokenizer's codes|cross-entropy", LOSS)
    parts += box(164, top + 142, 292, "[CLS] head|last class token, early patches")
    parts += arrow((310, top + 94), (310, top + 138), dashed=True)
    parts += arrow((456, top + 170), (540, top + 170), (540, top + 128), dashed=True)
    parts += box(628, top + 142, 250, "tokenizer, frozen|sees the whole image", FROZEN)
    parts += arrow((878, top + 170), (948, top + 170), (948, top + 84))
    bottom = 570.0
    parts.append(f'<path d="M24 {bottom - 16:g} H1018" stroke="#c9d0d8"/>')
    parts += text(24, bottom + 12, "Use: the backbone", size=18, bold=True)
    for number, words in enumerate(("classification|fine-tuned with labels", "segmentation|fine-tuned with label maps",
                                    "features|search, duplicates, pictures")):
        parts += box(24 + 340 * number, bottom + 30, 314, words)
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1042 680" font-family="Helvetica, Arial, sans-serif" '
        'fill="#1d2733">',
        f'<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/></marker></defs>',
        '<rect width="1042" height="680" rx="10" fill="#ffffff"/>', *parts, "</svg>", ""])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: python docs/make_method_figure.py (it takes no arguments)")
    (IMAGES / "method.svg").write_text(figure(), encoding="utf-8")
    print(f"written: {IMAGES / 'method.svg'}")
