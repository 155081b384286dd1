# SPDX-License-Identifier: Apache-2.0
"""`beitv2 inspect`: what is inside a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer


def inspect(
    checkpoint: str = typer.Argument(..., help="run folder, .pdckpt checkpoint or weights file", show_default=False),
    tensors: bool = typer.Option(True, help="list every tensor"),
) -> None:
    """Show kind, step, settings, tensors and sizes of a checkpoint; nothing in the file is executed."""
    from ..assembly.restore import read_checkpoint

    found = read_checkpoint(checkpoint, unknown=True)
    typer.echo(f"file: {found.path}")
    if found.model is not None:
        typer.echo(f"kind: {found.model.taken()}")
        for name, value in found.model.architecture.items():
            typer.echo(f"{name}: {value}")
        if found.model.unmapped:
            typer.echo(f"tensors beside the model: {len(found.model.unmapped)}")
    else:
        typer.echo(f"kind: {found.config.get('kind', 'weights only')}")
    if found.classes is not None:
        shown = ", ".join(found.classes[:5])
        typer.echo(f"classes: {len(found.classes)} ({shown}{', ...' if len(found.classes) > 5 else ''})")
    if found.step is not None:
        typer.echo(f"step: {found.step}")
    for line in _summary(found.config):
        typer.echo(line)
    if found.versions:
        typer.echo("versions: " + ", ".join(f"{key} {value}" for key, value in sorted(found.versions.items())))
    total = sum(array.size for array in found.weights.values())
    size = sum(array.nbytes for array in found.weights.values())
    typer.echo(f"weights: {len(found.weights)} tensors, {total:,} numbers, {size / 1e6:.1f} MB")
    if found.optimizer_bytes:
        typer.echo(f"optimizer: {found.optimizer_tensors} tensors, {found.optimizer_bytes / 1e6:.1f} MB")
    if tensors:
        width = max((len(key) for key in found.weights), default=0)
        for key, array in found.weights.items():
            typer.echo(f"  {key:<{width}}  {array.dtype!s:<8} {'x'.join(map(str, array.shape)) or 'scalar'}")


def _summary(config: Mapping[str, Any]) -> list:
    lines = []
    for section in ("data", "encoder", "decoder", "model", "quantizer", "teacher", "tokenizer", "mask", "optim"):
        values = config.get(section)
        if isinstance(values, Mapping):
            shown = ", ".join(f"{key}={value}" for key, value in values.items() if value not in (None, {}, []))
            lines.append(f"{section}: {shown}")
    return lines
