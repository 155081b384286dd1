# SPDX-License-Identifier: Apache-2.0
"""Training runs: what `beitv2 train-tokenizer` and `beitv2 pretrain` call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional, Union, overload

from ..config import RunConfig, TwoStagesConfig, load_config, parse_config
from ..config.load import merge_overrides
from ..engine.progress import showing
from ..errors import ConfigError
from ..evaluation.verdict import Verdict
from ..launching.records import is_restart
from .arguments import Changes, overrides_of
from .evaluate import Report, report_of

if TYPE_CHECKING:
    from ..assembly.dry_run import DryRun

log = logging.getLogger("beitv2_core")
Config = Union[str, Path, RunConfig]
#: settings of one stage or both, or images
Source = Union[str, Path, RunConfig, TwoStagesConfig]
Folder = Union[str, Path, None]
Say = Callable[[str], None]


class TrainedRun(NamedTuple):
    """A training run that ended.

    folder: the run folder, which every function and command that takes a run accepts.  checkpoint: the newest
    `.pdckpt`.  metrics: metrics.jsonl, a JSON object for every logged step.  figures: the PNG files.  steps of
    total_steps updates were made, in seconds, at images_per_second.  last: the last logged values by name; final: what
    the method measured at its end.
    Of a run of both stages these are the backbone's, in folder/pretrain; tokenizer: the run folder of the first stage;
    report: of both, on images held out; verdict: whether the run is well (state, sentences).
    """

    folder: Path
    checkpoint: Path
    metrics: Path
    figures: list[Path]
    steps: int
    total_steps: int
    seconds: float
    images_per_second: float
    last: dict[str, float]
    final: dict[str, Any]
    tokenizer: Optional[Path] = None
    report: Optional[Report] = None
    verdict: Optional[Verdict] = None


@overload
def pretrain(source: Source, out: Folder = ..., *, set: Changes = ..., minutes: Optional[float] = ...,
             labelled: Folder = ..., resume: Union[str, Path] = ..., dry_run: Literal[False] = ...,
             say: Optional[Say] = ..., progress: Optional[bool] = ...) -> TrainedRun: ...


@overload
def pretrain(source: Source, out: Folder = ..., *, set: Changes = ..., minutes: Optional[float] = ...,
             labelled: Folder = ..., resume: Union[str, Path] = ..., dry_run: bool,
             say: Optional[Say] = ..., progress: Optional[bool] = ...,
             ) -> Union[TrainedRun, DryRun, TwoStagesConfig]: ...


def pretrain(source: Source, out: Folder = None, *, set: Changes = (), minutes: Optional[float] = None,
             labelled: Folder = None, resume: Union[str, Path] = "auto", dry_run: bool = False,
             say: Optional[Say] = None, progress: Optional[bool] = None,
             ) -> Union[TrainedRun, DryRun, TwoStagesConfig]:
    """Train a tokenizer (stage 1), a backbone by masked image modelling (stage 2), or both on your own images.

    source: images (a folder of any depth, a list or tar files): all settings are chosen for them and both stages are
    trained; or a YAML file of one stage or of both; or its settings (`load_config`).  out: the run folder; default:
    `output` of the settings.  set: changed settings, {"optim.lr": 1e-3} or ["optim.lr=1e-3"].  minutes: of images: time
    for everything, default 30.  labelled: class folders whose nearest neighbours are counted while the run goes on.
    resume: "auto" continues from the newest checkpoint of the run, if any; "never": a new run, in a new folder; or a
    .pdckpt checkpoint of one stage.  dry_run: build everything, take one step, write nothing; the result is then its
    measurements, of images the settings that would be chosen.  say: called with each line about what is chosen and
    done; default: the log.  progress: True or False for a bar or silence; None: a bar on a terminal, else lines of the
    log "beitv2_core".
    SIGINT and SIGTERM end the run after the step that is under way, with a checkpoint, as `TrainingInterrupted`; their
    handlers are restored afterwards.
    Raises ConfigError, DataError, CheckpointError, NonFiniteLossError, OutOfMemoryError, OutputError.
    """
    began, tell = time.monotonic(), log.info if say is None else say
    if not isinstance(source, (RunConfig, TwoStagesConfig)) and not is_settings_file(source):
        if out is None:
            raise ConfigError(f"{source}: images were given, so the run needs a folder: add -o RUN. (Settings: a "
                              ".yml.)")
        _refuse_resume(resume, out)
        from ..two_stages.run import pretrain_images

        with showing(progress):
            outcome = pretrain_images(str(source), str(out), minutes=minutes, say=tell, began=began,
                                      overrides=[*overrides_of(set), *_of_labelled(labelled, "pretrain.")],
                                      only_choose=dry_run)
        return outcome.config if dry_run else _of_both(outcome)
    if minutes is not None:
        raise ConfigError(f"--minutes: {source} says how long its run is; minutes are for IMAGES. Leave it out, or set "
                          "optim.steps.")
    settings = settings_from(source, overrides_of(set, out))
    if labelled is not None:
        stage = "pretrain." if isinstance(settings, TwoStagesConfig) else ""
        settings = settings_from(settings, _of_labelled(labelled, stage))
    if isinstance(settings, TwoStagesConfig):
        _refuse_resume(resume, settings.output)
        if dry_run:
            raise ConfigError(f"--dry-run: {source} is a run of both stages, whose second needs the first. Leave it "
                              f"out; `beitv2 config {source}` shows the settings.")
        from ..two_stages.run import pretrain_settings

        with showing(progress):
            return _of_both(pretrain_settings(settings, say=tell, began=began))
    kind = getattr(settings, "kind", None)
    if kind not in ("tokenizer", "pretrain"):
        raise ConfigError(f"{source}: this is a {kind!r} config, a 'pretrain' or 'tokenizer' config was expected.")
    from ..assembly.training import build_training

    found: Union[TrainedRun, DryRun] = train(settings, build_training, resume=resume, dry_run=dry_run,
                                             progress=progress)
    return found


def is_settings_file(source: Union[str, Path]) -> bool:
    """Whether a path names a YAML file of settings, not images."""
    return Path(source).suffix.lower() in (".yml", ".yaml")


def settings_from(config: Source, overrides: list[str], schema: Optional[type[Any]] = None) -> Any:
    """The settings of a YAML file, or given ones, under overrides.

    Raises ConfigError as `load_config`, and for given settings of another kind than `schema`.
    """
    if not isinstance(config, (RunConfig, TwoStagesConfig)):
        return load_config(config, overrides, schema)
    if not overrides and (schema is None or isinstance(config, schema)):
        return config
    tree = config.resolved()
    merge_overrides(tree, overrides)
    return parse_config(tree, schema=schema or type(config), source="config")


def train(settings: Any, build: Callable[[Any], Any], *, resume: Union[str, Path] = "auto", dry_run: bool = False,
          parts: Optional[Callable[[Any], Any]] = None, progress: Optional[bool] = None) -> Any:
    """Run the loop that `build` makes of the settings; with dry_run one step of what `parts` makes of them.

    Returns a `TrainedRun`, or the `DryRun`.
    """
    with showing(progress):
        if dry_run:
            from ..assembly.dry_run import run_one_step

            return run_one_step(settings, parts)
        loop = build(settings)
        return trained(loop.run_folder.path, loop.run(resume=None if resume == "never" else resume))


def trained(folder: Path, summary: Mapping[str, Any]) -> TrainedRun:
    """The result of a training loop: its summary and the files of its run folder."""
    checkpoints = sorted((folder / "checkpoints").glob("step_*.pdckpt"))
    return TrainedRun(folder=folder, checkpoint=checkpoints[-1], metrics=folder / "metrics.jsonl",
                      figures=sorted((folder / "figures").glob("*.png")), steps=summary["steps"],
                      total_steps=summary["total_steps"], seconds=summary["seconds"],
                      images_per_second=summary["images_per_second"], last=dict(summary["last"]),
                      final=dict(summary.get("final") or {}))


def _of_both(outcome: Any) -> TrainedRun:
    """The result of a run of both stages; without report and verdict in processes other than the first."""
    from ..two_stages.run import read_summary

    folder, stage = Path(outcome.folder), Path(outcome.config.pretrain.output)
    found = trained(stage, read_summary(stage))
    summary = outcome.summary
    if summary:
        judged = Verdict(**summary["verdict"])
        found = found._replace(report=report_of(folder, summary["report"], judged), verdict=judged)
    return found._replace(folder=folder, figures=sorted((folder / "figures").glob("*.png")),
                          tokenizer=Path(outcome.config.tokenizer.output))


def _of_labelled(folder: Folder, stage: str) -> list[str]:
    """The setting of `labelled`."""
    return [] if folder is None else [f"{stage}monitor.labelled={folder}"]


def _refuse_resume(resume: Union[str, Path], output: Any) -> None:
    """A run of both stages continues by itself; `never` asks for a new one."""
    if resume == "never" and not is_restart() and (Path(output) / "config.yml").exists():
        raise ConfigError(f"--resume never: {output} already holds a run. Choose another folder by -o.")
    if resume not in ("auto", "never"):
        raise ConfigError(f"--resume {resume}: a run of both stages continues from its newest checkpoint by itself. "
                          "Leave it out.")
