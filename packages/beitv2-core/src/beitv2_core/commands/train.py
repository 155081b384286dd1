# SPDX-License-Identifier: Apache-2.0
"""`beitv2 train-tokenizer`, `pretrain` and `init-tokenizer`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Optional

import typer

from ..config import PretrainConfig, TokenizerConfig, TwoStagesConfig, load_config
from ..config.load import read_tree
from ..errors import ConfigError
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
) -> None:
    """Train a VQ-KD tokenizer: codes of an image from which the teacher's features are reconstructed (stage 1)."""
    settings = load_config(config, options.all_overrides(set_, more, output), TokenizerConfig)
    _train(settings, resume, dry_run)


def pretrain(
    what: str = typer.Argument(
        ..., metavar="CONFIG|IMAGES", show_default=False,
        help="YAML file, see configs/; or your own images: a folder of any depth, a list (.txt, .csv) or tar files"),
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    resume: str = RESUME,
    output: Optional[Path] = OUTPUT,
    dry_run: bool = DRY_RUN,
    labelled: Optional[str] = LABELLED,
    minutes: Optional[float] = typer.Option(
        None, min=0.01, show_default=False,
        help="of IMAGES: time for everything, from looking at the images to the report; default 30"),
) -> None:
    """Pretrain a backbone by predicting the codes of masked patches (stage 2); of IMAGES: choose all settings for them
    and train both stages, see docs/own-images.md."""
    began = time.monotonic()
    if not _is_config(what):
        overrides = [*options.all_overrides(set_, more), *_of_labelled(labelled, "pretrain.")]
        _pretrain_images(what, overrides, resume, output, dry_run, minutes, began)
        return
    if minutes is not None:
        raise ConfigError(f"--minutes: {what} says how long its run is; minutes are for IMAGES. Leave it out, or set "
                          "optim.steps.")
    overrides = options.all_overrides(set_, more, output)
    if read_tree(Path(what))[0].get("kind") != "two_stages":
        _train(load_config(what, [*overrides, *_of_labelled(labelled)], PretrainConfig), resume, dry_run)
        return
    from ..two_stages.run import pretrain_settings

    settings = load_config(what, [*overrides, *_of_labelled(labelled, "pretrain.")], TwoStagesConfig)
    _refuse_resume(resume, settings.output)
    if dry_run:
        raise ConfigError(f"--dry-run: {what} is a run of both stages, whose second needs the first. Leave it out; "
                          f"`beitv2 config {what}` shows the settings.")
    _show(pretrain_settings(settings, say=typer.echo, began=began))


def _is_config(what: str) -> bool:
    return Path(what).suffix.lower() in (".yml", ".yaml")


def _of_labelled(folder: Optional[str], stage: str = "") -> list[str]:
    """The setting of --labelled."""
    return [] if folder is None else [f"{stage}monitor.labelled={folder}"]


def _pretrain_images(images: str, overrides: list[str], resume: str, output: Optional[Path], dry_run: bool,
                     minutes: Optional[float], began: float) -> None:
    from ..two_stages.run import pretrain_images

    if output is None:
        raise ConfigError(f"{images}: images were given, so the run needs a folder: add -o RUN. (Settings: a .yml.)")
    _refuse_resume(resume, output)
    _show(pretrain_images(images, str(output), minutes=minutes, overrides=overrides, say=typer.echo, began=began,
                          only_choose=dry_run))


def _show(outcome: Any) -> None:
    """The report's table and the verdict, in the process that has them."""
    if outcome is None or not outcome.summary:
        return
    print_table(outcome.summary["report"], outcome.folder)
    judged = outcome.summary["verdict"]
    for line in (f"verdict: {judged['state']}", *judged["sentences"]):
        typer.echo(line)


def _refuse_resume(resume: str, output: Any) -> None:
    """A run of both stages continues by itself; `never` asks for a new one."""
    if resume == "never" and (Path(output) / "config.yml").exists():
        raise ConfigError(f"--resume never: {output} already holds a run. Choose another folder by -o.")
    if resume not in ("auto", "never"):
        raise ConfigError(f"--resume {resume}: a run of both stages continues from its newest checkpoint by itself. "
                          "Leave it out.")


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
