# SPDX-License-Identifier: Apache-2.0
"""Curves of a training run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from beitv2_core.errors import DataError
from beitv2_core.viz.canvas import MUTED, SERIES, Canvas

log = logging.getLogger("beitv2_core")

#: (panel, unit, words in a metric's name that put it there, factor); first match decides, shares become per cent
_FAMILIES: tuple[tuple[str, str, tuple[str, ...], float], ...] = (
    ("Loss", "", ("loss",), 1),
    ("Accuracy", "%", ("acc", "accuracy"), 100),
    ("Effective rank", "directions", ("rankme", "rank"), 1),
    ("alpha-ReQ", "", ("alpha",), 1),
    ("Codes used", "% of the codebook", ("usage",), 100),
    ("Perplexity of the codes", "codes", ("perplexity",), 1),
    ("Codes replaced", "codes", ("revived",), 1),
    ("Gradient norm", "", ("norm",), 1),
    ("Learning rate", "", ("lr",), 1),
    ("Weight decay", "", ("decay",), 1),
    ("Speed", "images per second", ("second",), 1),
)
#: panels that are left out while their value does not change
_ONLY_IF_IT_CHANGES = ("Weight decay", "Codes replaced")
#: panels whose long curves get a running mean over the raw values
_NOISY = ("Loss", "Accuracy", "Codes replaced", "Gradient norm", "Speed")
_LONG = 40  # points
#: panels with tiny numbers: the power of ten goes to the axis label
_BY_POWER = ("Learning rate", "Weight decay")

Curve = tuple[np.ndarray, np.ndarray]  # steps, values


def training_curves(metrics_jsonl: str | Path, path: str | Path) -> None:
    """One panel per family of metrics (loss, accuracy, codebook, rate, speed ...) found in a run's metrics.jsonl.

    metrics_jsonl: one flat JSON object a line, "step" and numbers; lines that a kill or a power cut tore are left out.
    Raises DataError where it cannot be read or holds no number to draw.
    """
    curves = read_curves(metrics_jsonl)
    panels = families(curves)
    if not panels:
        raise DataError(f"{metrics_jsonl}: no metrics yet. Train at least train.log_every steps.")
    columns = min(len(panels), {4: 2, 7: 4, 8: 4}.get(len(panels), 3))
    rows = -(-len(panels) // columns)
    with Canvas(path, 3.5 * columns, 2.5 * rows + 0.1) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        first = min(curves[name][0].min() for *_, names in panels for name in names)
        last = max(curves[name][0].max() for *_, names in panels for name in names)
        margin = 0.02 * (last - first) or 1
        for axes, (title, unit, factor, names) in zip(grid, panels):
            axes.grid()
            if title in _BY_POWER:
                power = _power([curves[name][1] for name in names])
                factor, unit = 10.0 ** -power, f"$\\times 10^{{{power}}}$" if power else ""
            for number, name in enumerate(names):
                steps, values = curves[name]
                _draw(axes, steps, values * factor, SERIES[number % len(SERIES)], name, smoothed=title in _NOISY)
            axes.set(title=title, ylabel=unit, xlabel="step", xlim=(first - margin, last + margin))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if title != "Loss" and axes.dataLim.y0 >= 0:
                axes.set_ylim(bottom=0)
            if len(names) > 1:
                axes.legend()
        for axes in grid[len(panels):]:
            axes.set_axis_off()


def read_curves(metrics_jsonl: str | Path) -> dict[str, Curve]:
    """Metric -> (steps, values) of its finite and non-finite numbers, in the order of the file."""
    metrics_jsonl = Path(metrics_jsonl)
    try:
        text = metrics_jsonl.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{metrics_jsonl}: cannot be read ({error.strerror}). "
                        "Give the metrics.jsonl of a run folder.") from error
    found: dict[str, tuple[list[float], list[float]]] = {}
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            step = float(values.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(text) or "\0" in line:  # a kill while it was written; a power cut
                log.warning("%s: line %d is cut short and left out", metrics_jsonl, number)
                continue
            raise DataError(f"{metrics_jsonl}: line {number} is no JSON object with a number \"step\": {line[:60]!r}. "
                            "Remove the line, or draw another run.") from error
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                steps, column = found.setdefault(name, ([], []))
                steps.append(step)
                column.append(float(value))
    return {name: (np.asarray(steps), np.asarray(column)) for name, (steps, column) in found.items()}


def families(curves: dict[str, Curve]) -> list[tuple[str, str, float, list[str]]]:
    """Panels (title, unit, factor, metrics) in reading order; a metric of no known family has a panel of its own."""
    panels: dict[str, tuple[str, str, float, list[str]]] = {}
    for title, unit, _, factor in _FAMILIES:
        names = [name for name in curves if name != "epoch" and _family(name) == title]
        if title in _ONLY_IF_IT_CHANGES:
            names = [name for name in names if np.ptp(curves[name][1]) > 0]
        if names:
            panels[title] = (title, unit, factor, names)
    for name in curves:
        if name != "epoch" and _family(name) is None:
            panels[name] = (name.replace("_", " "), "", 1, [name])
    return list(panels.values())


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the `width` values round each one, over those that exist near both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - width // 2, 0), np.minimum(index + width // 2 + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _family(name: str) -> str | None:
    words = set(name.lower().replace("/", "_").split("_"))
    return next((title for title, _, keys, _ in _FAMILIES if words & set(keys)), None)


def _draw(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str, name: str, *, smoothed: bool) -> None:
    if len(steps) == 1:
        axes.plot(steps, values, "o", color=colour, label=name, markersize=4)
    elif not smoothed or len(steps) < _LONG or not np.isfinite(values).all():
        axes.plot(steps, values, color=colour, label=name)
    else:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps, smooth(values, len(values) // 25), color=colour, label=name)
    for step in steps[~np.isfinite(values)]:
        axes.axvline(step, color=MUTED, linewidth=0.8, linestyle=":")


def _power(columns: list[np.ndarray]) -> int:
    """The power of ten of the largest finite number; 0 for ordinary ones."""
    values = np.concatenate(columns)
    most = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    power = int(np.floor(np.log10(most))) if most > 0 else 0
    return power if power < -1 or power > 3 else 0
