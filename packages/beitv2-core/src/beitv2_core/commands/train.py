# SPDX-License-Identifier: Apache-2.0
"""`beitv2 train-tokenizer`, `pretrain` and `init-tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from . import options
from .report import print_table

RESUME = typer.Option(
    "auto",
    help="auto: continue from the newest checkpoint of the run, if any; never: a new run, in a new folder; "
    "or a .pdckpt checkpoint",
)
OUTPUT = typer.Option(None, "--output", "-o", help="run folder; default: output of the settings")
LABELLED = typer.Option(
    None, help="class folders whose nearest neighbours are counted while the run goes on (monitor.labelled)"
)
DRY_RUN = typer.Option(False, "--dry-run", help="build everything, run one step, print batch and memory, write nothing")


def train_tokenizer(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    resume: str = RESUME,
    output: Optional[Path] = OUTPUT,
    dry_run: bool = DRY_RUN,
    verify_every: Optional[int] = options.VERIFY_EVERY,
) -> None:
    """Train a VQ-KD tokenizer: codes of an image from which the teacher's features are reconstructed (stage 1)."""
    from ..api.train import pretrain as run_training
    from ..config import TokenizerConfig, load_config

    changes = [*options.all_overrides(set_, more, output), *options.verified(verify_every)]
    settings = load_config(config, changes, TokenizerConfig)
    _show(run_training(settings, resume=resume, dry_run=dry_run))


def pretrain(
    what: str = typer.Argument(
        ..., metavar="CONFIG|IMAGES", show_default=False,
        help="YAML file, see configs/; or your own images: a folder of any depth, a list (.txt, .csv) or tar files"),
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    resume: str = RESUME,
    output: Optional[Path] = OUTPUT,
    dry_run: bool = DRY_RUN,
    verify_every: Optional[int] = options.VERIFY_EVERY,
    labelled: Optional[str] = LABELLED,
    minutes: Optional[float] = typer.Option(
        None, min=0.01, show_default=False,
        help="of IMAGES: time for everything, from looking at the images to the report; default 30"),
) -> None:
    """Pretrain a backbone by predicting the codes of masked patches (stage 2); of IMAGES: choose all settings for them
    and train both stages, see docs/own-images.md."""
    from ..api.train import is_settings_file
    from ..api.train import pretrain as run_training
    from ..config import PretrainConfig, load_config
    from ..config.load import read_tree

    source: Any = what
    changes = options.all_overrides(set_, more)
    both = options.verified(verify_every, "tokenizer.", "pretrain.")
    if is_settings_file(what) and read_tree(Path(what))[0].get("kind") != "two_stages":  # not those of a tokenizer
        one = [*options.all_overrides(set_, more, output), *options.verified(verify_every)]
        source, changes, both = load_config(what, one, PretrainConfig), [], []
    _show(run_training(source, output, set=[*changes, *both], minutes=minutes, labelled=labelled, resume=resume,
                       dry_run=dry_run, say=typer.echo))


def _show(found: Any) -> None:
    """The measurements of a dry run; of both stages the report's table and the verdict."""
    from ..api.evaluate import Report

    for line in found.lines() if hasattr(found, "lines") else ():
        typer.echo(line)
    report = getattr(found, "report", None)
    if isinstance(report, Report):  # in the process that has it
        print_table(report.summary, report.folder)
        typer.echo(found.verdict.text())


def init_tokenizer(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    output: Optional[Path] = OUTPUT,
    teacher_width: int = typer.Option(512, min=1, help="channels of the teacher's features (CLIP 512, DINO 768)"),
) -> None:
    """Write an untrained tokenizer with random codes, for tests and speed measurements; needs no teacher."""
    from ..assembly.restore import save_untrained
    from ..config import TokenizerConfig, load_config

    overrides = options.all_overrides(set_, more, output)
    tree_only = ["teacher.name=none", "teacher.weights=null", "teacher.sha256=null", "data.root=none"]
    settings = load_config(config, [*overrides, *tree_only], TokenizerConfig)
    typer.echo(str(save_untrained(settings, teacher_width)))
