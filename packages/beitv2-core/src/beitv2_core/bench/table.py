# SPDX-License-Identifier: Apache-2.0
"""What was measured: as lines, as JSON, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..exporting.agreement import in_words
from ..viz.canvas import ACCENT, INK, PALE, Canvas
from .measure import Measured


def lines(found: Sequence[Measured]) -> list[str]:
    """A line for every row: runtime, precision, images/s, memory, agreement; or why there is nothing."""
    first = next((one for one in found if one.missing is None), None)
    shown = [f"{'runtime':<18}{'precision':<11}{'images/s':>9}{'MB':>8}   agreement with the first row"]
    for one in found:
        start = f"{one.row.runtime:<18}{one.row.precision:<11}"
        if one.missing is not None:
            shown.append(f"{start}{'-':>9}{'-':>8}   {one.missing}")
        else:
            said = "" if one.agreement is None else in_words(one.agreement)
            shown.append(f"{start}{one.images_per_second:>9.1f}{one.memory / 1e6:>8.0f}   "
                         f"{'(the first row)' if one is first else said}".rstrip())
    return shown


def as_json(found: Sequence[Measured], facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` and a list of rows, with every round's seconds."""
    rows: list[dict[str, Any]] = []
    for one in found:
        row: dict[str, Any] = {"runtime": one.row.runtime, "precision": one.row.precision}
        if one.missing is not None:
            row["missing"] = one.missing
        else:
            row.update(images_per_second=one.images_per_second, seconds=list(one.seconds),
                       peak_memory_bytes=one.memory, agreement=one.agreement)
        rows.append(row)
    return {**facts, "rows": rows}


def draw(path: Path, found: Sequence[Measured], title: str) -> None:
    """Bars of images/s, as a PNG; a row that does not run is named with nothing beside it."""
    with Canvas(path, 6.4, 1.3 + 0.3 * len(found), title=title) as figure:
        axes = figure.add_subplot()
        rates = [one.images_per_second for one in found]
        bars = axes.barh(range(len(found)), rates, color=[ACCENT if rate else PALE for rate in rates])
        axes.bar_label(bars, labels=[f"{rate:.1f}" if rate else "not available" for rate in rates], padding=3,
                       fontsize=8, color=INK)
        axes.set_yticks(range(len(found)), [f"{one.row.runtime}, {one.row.precision}" for one in found])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.18 * max(*rates, 1e-9))
        axes.set_xlabel("images/s")
