"""Curves of a training run."""

from __future__ import annotations

import json
from pathlib import Path

from beitv2_core.errors import DataError
from beitv2_core.viz.canvas import Canvas

#: panel title -> how the names of its curves begin
_PANELS = {"loss": ("loss", "rec_loss", "quant_loss"), "accuracy": ("acc",), "codes used": ("usage",),
           "perplexity": ("perplexity", "position_perplexity"), "gradient norm": ("grad_norm",),
           "learning rate": ("lr",)}


def training_curves(metrics_jsonl: str | Path, path: str | Path) -> None:
    """One panel per family of metrics found in a run's metrics.jsonl; DataError where it holds no line."""
    metrics_jsonl = Path(metrics_jsonl)
    lines = [json.loads(line) for line in metrics_jsonl.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{metrics_jsonl}: no metrics yet. Train at least train.log_every steps.")
    names = sorted({name for line in lines for name in line if name != "step"})
    panels = {title: [name for name in names if name.startswith(starts)] for title, starts in _PANELS.items()}
    panels = {title: found for title, found in panels.items() if found}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with Canvas(path, 3.4 * columns, 2.4 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes, (title, found) in zip(grid, panels.items()):
            for name in found:
                points = [(line["step"], line[name]) for line in lines if name in line]
                axes.plot(*zip(*points), label=name, linewidth=1.3)
            axes.set(title=title, xlabel="step")
            axes.grid(alpha=0.25)
            if len(found) > 1:
                axes.legend(frameon=False, fontsize=7)
        for axes in grid[len(panels):]:
            axes.set_axis_off()
