# SPDX-License-Identifier: Apache-2.0
"""`beitv2 export`: a trained model as a file that runs without our code."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from ..exported_model import Description
from . import options
from .report import run_folder_of


def export(
    run: str = typer.Argument(..., help="run folder, .pdckpt checkpoint or file of weights",
                              show_default=False),
    form: str = typer.Option(..., "--format", "-f", help="paddle (static graph) or onnx (opset 17)",
                             show_default=False),
    output: Optional[Path] = typer.Option(None, "--output", "-o",
                                          help="new folder; default: RUN/exported/KIND_FORMAT"),
    kind: Optional[str] = typer.Option(None, help="features: the backbone's features instead of the trained head"),
    name: Optional[str] = options.NAME,
) -> None:
    """Export a static graph or an ONNX model; nothing is written if its outputs differ from the live model's."""
    from ..export import export_model, find_exportable

    model = find_exportable(run, kind=kind, name=name)
    folder = output or run_folder_of(run) / "exported" / f"{model.facts['kind']}_{form}"
    description = export_model(model, folder, form=form)
    for line in difference_lines(description):
        typer.echo(line)
    size = sum((folder / file).stat().st_size for file in description.files)
    typer.echo(f"{folder}: {description.kind}, {form}, {size / 1e6:.1f} MB")


def difference_lines(description: Description) -> list[str]:
    """What was measured against the live model, one line for every runner and batch size."""
    lines = []
    for runner, sizes in description.differences.items():
        for batch, outputs in sizes.items():
            found = ", ".join(f"{name} {value:.0f} unequal" if name == "codes" else f"{name} {value:.2g}"
                              for name, value in outputs.items())
            lines.append(f"{runner:<18}batch {batch}   largest difference: {found}")
    return lines
