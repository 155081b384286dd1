# SPDX-License-Identifier: Apache-2.0
"""`beitv2 train-tokenizer`, `pretrain` and `init-tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from ..config import PretrainConfig, TokenizerConfig, load_config
from . import options

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
) -> None:
    """Train a VQ-KD tokenizer: codes of an image from which the teacher's features are reconstructed (stage 1)."""
    settings = load_config(config, options.all_overrides(set_, more, output), TokenizerConfig)
    _train(settings, resume, dry_run)


def pretrain(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    resume: str = RESUME,
    output: Optional[Path] = OUTPUT,
    dry_run: bool = DRY_RUN,
    labelled: Optional[str] = LABELLED,
) -> None:
    """Pretrain a backbone by predicting the codes of masked patches (stage 2)."""
    labels = [] if labelled is None else [f"monitor.labelled={labelled}"]
    settings = load_config(config, [*options.all_overrides(set_, more, output), *labels], PretrainConfig)
    _train(settings, resume, dry_run)


def init_tokenizer(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    output: Optional[Path] = OUTPUT,
    teacher_width: int = typer.Option(512, min=1, help="channels of the teacher's features (CLIP 512, DINO 768)"),
) -> None:
    """Write an untrained tokenizer with random codes, for tests and speed measurements; needs no teacher."""
    overrides = options.all_overrides(set_, more, output)
    tree_only = ["teacher.name=none", "teacher.weights=null", "teacher.sha256=null", "data.root=none"]
    settings = load_config(config, [*overrides, *tree_only], TokenizerConfig)
    from ..assembly.restore import save_untrained

    typer.echo(str(save_untrained(settings, teacher_width)))


def _train(settings: Any, resume: str, dry_run: bool) -> None:
    if dry_run:
        from ..assembly.dry_run import run_one_step

        for line in run_one_step(settings).lines():
            typer.echo(line)
        return
    from ..assembly import build_training

    build_training(settings).run(resume=None if resume == "never" else resume)
