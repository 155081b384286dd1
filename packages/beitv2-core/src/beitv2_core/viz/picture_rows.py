# SPDX-License-Identifier: Apache-2.0
"""Images beside each other, each with a line below: what a search found, and pairs that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from beitv2_core.errors import ShapeError
from beitv2_core.viz.canvas import MUTED, Canvas, show

SIDE = 1.35  # inches of an image


class Shown(NamedTuple):
    """An RGB image (PIL, or uint8 (h, w, 3)) and what is written below it."""

    image: Any
    words: str


def picture_rows(rows: Sequence[Sequence[Shown]], path: str | Path, *, title: str | None = None) -> None:
    """Write a PNG with a row of images for every row; ShapeError without any."""
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ShapeError("picture_rows: no images to show. Give at least one row.")
    height = len(rows) * (SIDE + 0.3) + (0.35 if title else 0.05)
    with Canvas(path, max(columns * (SIDE + 0.15), 3.5), height, title=title) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes_row, row in zip(grid, rows):
            for axes, shown in zip(axes_row, row):
                show(axes, shown.image, interpolation="bilinear")
                axes.set_xlabel(shown.words, fontsize=7, color=MUTED)
            for axes in axes_row[len(row):]:
                axes.set_axis_off()
