# SPDX-License-Identifier: Apache-2.0
"""`beitv2 export`: a trained model as a file that runs without our code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from . import options

if TYPE_CHECKING:
    from ..exported_model import Description


def export(
    run: str = typer.Argument(..., help="run folder, .pdckpt checkpoint or file of weights",
                              show_default=False),
    form: str = typer.Option(..., "--format", "-f", show_default=False,
                             help="paddle (static graph), paddlex (the same for PaddleX) or onnx (opset 17)"),
    output: Optional[Path] = typer.Option(None, "--output", "-o",
                                          help="new folder; default: RUN/exported/KIND_FORMAT"),
    kind: Optional[str] = typer.Option(None, help="features: the backbone's features instead of the trained head"),
    name: Optional[str] = options.NAME,
    quantize: Optional[str] = typer.Option(None, help="int8: add eight-bit products beside an ONNX graph"),
    calibrate: Optional[Path] = options.CALIBRATE,
    calibration_images: int = options.CALIBRATION_IMAGES,
) -> None:
    """Export a static graph or an ONNX model; nothing is written if its outputs differ from the live model's."""
    from ..api.export import export as export_to

    folder, description = export_to(run, form, output, kind=kind, name=name, quantize=quantize, calibrate=calibrate,
                                    calibration_images=calibration_images)
    for line in difference_lines(description):
        typer.echo(line)
    size = sum((folder / file).stat().st_size for file in description.files)
    typer.echo(f"{folder}: {description.kind}, {form}, {size / 1e6:.1f} MB")


def difference_lines(description: Description) -> list[str]:
    """What was measured against the live model, one line for every runner and batch size; of int8, against float32."""
    from ..exporting.agreement import in_words

    lines = []
    for runner, sizes in description.differences.items():
        for batch, outputs in sizes.items():
            found = ", ".join(f"{name} {value:.0f} unequal" if name == "codes" else f"{name} {value:.2g}"
                              for name, value in outputs.items())
            lines.append(f"{runner:<18}batch {batch}   largest difference: {found}")
    if description.int8 is not None:
        eight = description.int8
        lines.append(f"int8, calibrated on {eight.calibrated_on} images, on {eight.measured_on} others: "
                     f"{in_words(eight.agreement)}")
    return lines
