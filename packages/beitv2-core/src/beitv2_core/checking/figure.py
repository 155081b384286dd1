# SPDX-License-Identifier: Apache-2.0
"""One page: sizes of the images, shares of the classes, and pictures of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..viz.canvas import MUTED, PALE, SERIES, Canvas, show
from .findings import Judged, counted

#: pictures on the page: in all, in a row, and of one finding
TILES, COLUMNS, OF_ONE = 16, 8, 4
#: classes with bars of their own; points of the sizes
MOST_BARS, MOST_POINTS = 24, 5000
#: side of a picture, pixels
SIDE = 160


def draw(judged: Judged, path: Path) -> None:
    """Write the page; without findings the pictures are some of the images, spread evenly."""
    tiles = _tiles(judged)
    rows = -(-len(tiles) // COLUMNS)
    with Canvas(path, 11, 3.4 + 1.55 * rows, title=f"{judged.plan.data}: {'ready' if judged.ready else 'not ready'}"
                ) as figure:
        top, below = figure.subfigures(2, 1, height_ratios=[3, max(1.5 * rows, 0.1)])
        sizes, shares = top.subplots(1, 2)
        _draw_sizes(sizes, judged)
        _draw_shares(shares, judged)
        if tiles:
            for axes, tile in zip(below.subplots(rows, COLUMNS, squeeze=False).reshape(-1),
                                  [*tiles, *[None] * (rows * COLUMNS - len(tiles))]):
                _draw_tile(axes, tile)


def _draw_sizes(axes: Any, judged: Judged) -> None:
    for part, found, colour in zip(judged.plan.parts, judged.found, SERIES):
        read = found.read if part.looks is not None else np.zeros(0, np.int64)
        if len(read):
            some = read[np.linspace(0, len(read) - 1, min(len(read), MOST_POINTS)).astype(np.int64)]
            axes.scatter(found.width[some], found.height[some], s=9, alpha=0.4, color=colour, linewidths=0,
                         label=part.name)
    axes.set_title("sizes")
    axes.set_xlabel("width, pixels")
    axes.set_ylabel("height, pixels")
    axes.grid(True)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if axes.collections:
        axes.legend()


def _draw_shares(axes: Any, judged: Judged) -> None:
    drawn = False
    known = next((list(map(str, names)) for part, found in zip(judged.plan.parts, judged.found)
                  for names in [counted(part, found)[1]] if names is not None), [])
    shown = known[:MOST_BARS]
    labelled = [(part, found) for part, found in zip(judged.plan.parts, judged.found)
                if counted(part, found)[0] is not None]
    for number, (part, found) in enumerate(labelled):
        counts, names = counted(part, found)
        values = np.asarray(counts if found.counts is None else found.counts[:-1])
        share = dict(zip(map(str, names or ()), 100 * values / max(int(values.sum()), 1)))
        axes.barh(np.arange(len(shown)) + (number + 0.5) / len(labelled) - 0.5, [share.get(name, 0) for name in shown],
                  height=0.8 / len(labelled), color=SERIES[number % len(SERIES)], label=part.name)
        drawn = True
    axes.set_title("share of the classes, %" + (f" (first {MOST_BARS} of {len(known)})" if len(known) > MOST_BARS
                                                else ""))
    if not drawn:
        axes.text(0.5, 0.5, "no classes", ha="center", va="center", color=MUTED, transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.set_yticks(np.arange(len(shown)), [name if len(name) < 18 else f"{name[:16]}..." for name in shown])
    axes.invert_yaxis()
    axes.legend()


def _tiles(judged: Judged) -> list[tuple[Optional[np.ndarray], str]]:
    """(picture, or None where it cannot be read; words) of a few files of every finding."""
    parts = {part.name: part for part in judged.plan.parts}
    chosen = [(name, number, one.kind) for one in judged.findings for name, number in one.files[:OF_ONE]]
    if not chosen:
        chosen = [(part.name, int(number), part.name) for part in judged.plan.parts if part.looks is not None
                  for number in np.unique(np.linspace(0, part.images - 1, TILES).astype(np.int64))]
        chosen = [chosen[int(number)] for number in _even(len(chosen), TILES)]
    tiles: list[tuple[Optional[np.ndarray], str]] = []
    for name, number, kind in chosen[:TILES]:
        words = f"{kind}\n{Path(parts[name].looks.path(number)).name[-22:]}"
        try:
            image = parts[name].looks.picture(number)
            image.thumbnail((SIDE, SIDE))
            tiles.append((np.asarray(image), words))
        except Exception:  # broken input raises anything; that it is broken is what the page shows
            tiles.append((None, words))
    return tiles


def _even(length: int, count: int) -> Sequence[int]:
    return np.unique(np.linspace(0, max(length - 1, 0), min(length, count)).astype(np.int64)).tolist()


def _draw_tile(axes: Any, tile: Optional[tuple[Optional[np.ndarray], str]]) -> None:
    if tile is None:
        axes.set_axis_off()
        return
    picture, words = tile
    show(axes, np.full((8, 8, 3), int(PALE[1:3], 16), np.uint8) if picture is None else picture,
         interpolation="bilinear")
    axes.set_xlabel(words, fontsize=6.5, color=MUTED)
