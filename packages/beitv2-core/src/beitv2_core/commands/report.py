# SPDX-License-Identifier: Apache-2.0
"""`beitv2 report`: measures and figures of a tokenizer and a pretrained backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError
from ..files.atomic import write_text_atomically
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
    from ..evaluation.report import Settings, make_report

    if pretrain_run is None:
        whole = Path(tokenizer_run)
        tokenizer_run, pretrain_run = both_stages(tokenizer_run)
        output = output or (whole if Path(pretrain_run).parent == whole else None)
    settings = Settings(tokenizer_run, pretrain_run, data, images, train_images, batch_size, train, max_pixels,
                        options.workers(num_workers))
    folder = output or run_folder_of(pretrain_run)
    summary = make_report(settings, folder)
    judged = verdict_of(tokenizer_run, pretrain_run)
    if judged is not None:
        summary["verdict"] = {"state": judged.state, "sentences": judged.sentences}
    write_summary(folder / "summary.json", summary)
    print_table(summary, folder)
    if judged is not None:
        typer.echo(judged.text())


def both_stages(run: str) -> tuple[str, str]:
    """Tokenizer and pretraining run of a folder of both stages, or of a pretraining run, whose settings name the first.

    Raises ConfigError for another run.
    """
    stages = Path(run) / "tokenizer", Path(run) / "pretrain"
    if all(stage.is_dir() for stage in stages):
        return str(stages[0]), str(stages[1])
    from ..assembly.restore import read_config

    config = read_config(run)
    if config.kind != "pretrain" or config.tokenizer is None:
        raise ConfigError(f"{run}: a {config.kind!r} run alone; expected a pretraining run or a folder of both stages. "
                          "Give the tokenizer's run and the pretraining run.")
    return config.tokenizer.weights, run


def verdict_of(*runs: str) -> Any:
    """The verdict on runs, in order; None where they are no run folders (a checkpoint, a file of weights)."""
    from ..evaluation.verdict import together, verdict

    folders = [Path(run) for run in runs if (Path(run) / "metrics.jsonl").is_file()]
    return together([verdict(folder) for folder in folders]) if folders else None


def run_folder_of(run: str) -> Path:
    """The run folder of a run folder (also of both stages) or of a checkpoint; the current folder otherwise."""
    from ..assembly.loaded_weights import stage_of

    path = Path(run)
    if stage_of(path) != path:
        return path
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "checkpoints").is_dir():
            return folder
    return Path(".")


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Add the report to summary.json; the summary of the training stays in it."""
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        existing = {}
    existing["report"] = summary
    write_text_atomically(path, json.dumps(existing, indent=2, sort_keys=True) + "\n")


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
