# SPDX-License-Identifier: Apache-2.0
"""`beitv2 report`: measures and figures of a tokenizer and a pretrained backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from . import options


def report(
    tokenizer_run: str = typer.Argument(
        ..., metavar="RUN", help="tokenizer run folder or checkpoint; or, alone, a pretraining run or the folder of "
        "both stages", show_default=False),
    pretrain_run: Optional[str] = typer.Argument(
        None, help="pretraining run folder or checkpoint", show_default=False),
    data: Optional[str] = typer.Option(
        None, help="folder of test images, or digit_scenes (default of a run trained on them: its test split); with "
        "class folders a linear probe is fitted too"
    ),
    train: Optional[str] = typer.Option(
        None, help="class folders the linear probe is fitted on; default: the pretraining run's own images"
    ),
    images: int = typer.Option(1000, min=8, help="number of test images, spread evenly over all"),
    train_images: int = typer.Option(3000, min=16, help="training images of the linear probe"),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="folder; default: the pretraining run folder"),
    batch_size: int = typer.Option(128, "--batch-size", "-b", min=1, help="images per batch"),
    max_pixels: Optional[int] = options.MAX_PIXELS,
    num_workers: Optional[int] = options.WORKERS,
) -> None:
    """Evaluate both stages on test images; write summary.json and figures; print a table and a verdict."""
    from ..api.evaluate import evaluate

    found = evaluate(tokenizer_run, pretrain_run, data=data, train=train, images=images, train_images=train_images,
                     out=output, batch_size=batch_size, max_pixels=max_pixels, num_workers=num_workers)
    print_table(found.summary, found.folder)
    if found.verdict is not None:
        typer.echo(found.verdict.text())


def table_rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, compare with) for the console."""
    codebook = summary["codebook"]
    masked = summary["masked_code_accuracy"]
    perplexity = codebook["perplexity"]
    guess = masked["most_frequent_share"]
    rows = [
        ("codes used", f"{codebook['codes_used']} of {codebook['num_codes']}", f"{100 * codebook['usage']:.1f} %"),
        ("perplexity", f"{perplexity:.1f}", f"{100 * perplexity / codebook['num_codes']:.1f} % of codes"),
    ]
    for head, value in masked["heads"].items():
        times = f"{value / guess:.1f} x the commonest code ({100 * guess:.1f} %)" if guess else ""
        rows.append((f"masked-code accuracy, {head}", f"{100 * value:.1f} %", times))
    probe = summary.get("linear_probe")
    if probe:
        gain = f"{100 * probe['gain']:+.1f} points over random weights ({100 * probe['random']:.1f} %)"
        rows.append(("linear probe", f"{100 * probe['pretrained']:.1f} %", gain))
    return rows


def print_table(summary: dict[str, Any], folder: Path) -> None:
    """Show the numbers; plain columns when the output is not a terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rows = table_rows(summary)
    title = f"{summary['images']} test images"
    if console.is_terminal:
        table = Table(title=title)
        for heading in ("what", "measured", "compare"):
            table.add_column(heading)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        typer.echo(title)
        for row in rows:
            typer.echo(f"{row[0]:<28}{row[1]:>14}   {row[2]}")
    typer.echo(f"written: {folder / 'summary.json'}")
    for figure in summary["figures"]:
        typer.echo(f"written: {figure}")
