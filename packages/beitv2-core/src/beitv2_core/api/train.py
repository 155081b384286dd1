# SPDX-License-Identifier: Apache-2.0
"""Training runs: what `beitv2 train-tokenizer` and `beitv2 pretrain` call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional, Union, overload

from ..config import RunConfig, load_config, parse_config
from ..config.load import merge_overrides
from ..engine.progress import showing
from ..errors import ConfigError
from .arguments import Changes, overrides_of

if TYPE_CHECKING:
    from ..assembly.dry_run import DryRun

Config = Union[str, Path, RunConfig]


class TrainedRun(NamedTuple):
    """A training run that ended.

    folder: the run folder, which every function and command that takes a run accepts.  checkpoint: the newest
    `.pdckpt` in it.  metrics: metrics.jsonl, a JSON object for every logged step.  figures: the PNG files.
    steps of total_steps updates were made, in seconds, at images_per_second.  last: the last logged values by name;
    final: what the method measured at its end.
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


@overload
def pretrain(config: Config, out: Union[str, Path, None] = ..., *, set: Changes = ...,
             resume: Union[str, Path] = ..., dry_run: Literal[False] = ..., progress: Optional[bool] = ...,
             ) -> TrainedRun: ...


@overload
def pretrain(config: Config, out: Union[str, Path, None] = ..., *, set: Changes = ...,
             resume: Union[str, Path] = ..., dry_run: Literal[True], progress: Optional[bool] = ...,
             ) -> DryRun: ...


@overload
def pretrain(config: Config, out: Union[str, Path, None] = ..., *, set: Changes = ...,
             resume: Union[str, Path] = ..., dry_run: bool, progress: Optional[bool] = ...,
             ) -> Union[TrainedRun, DryRun]: ...


def pretrain(config: Config, out: Union[str, Path, None] = None, *, set: Changes = (),
             resume: Union[str, Path] = "auto", dry_run: bool = False,
             progress: Optional[bool] = None) -> Union[TrainedRun, DryRun]:
    """Train a tokenizer (stage 1) or a backbone by masked image modelling (stage 2), as the settings say.

    config: a YAML file of either stage, or its settings (`load_config`).  out: the run folder; default: `output` of the
    settings.  set: changed settings, {"optim.lr": 1e-3} or ["optim.lr=1e-3"].  resume: "auto" continues from the newest
    checkpoint of the run, if any; "never": a new run, in a new folder; or a .pdckpt checkpoint.  dry_run: build
    everything, take one step, write nothing; the result is then its measurements.  progress: True or False for a bar or
    silence; None: a bar on a terminal, else lines of the log "beitv2_core".
    SIGINT and SIGTERM end the run after the step that is under way, with a checkpoint, as `TrainingInterrupted`; their
    handlers are restored afterwards.
    Raises ConfigError, DataError, CheckpointError, NonFiniteLossError, OutOfMemoryError, OutputError.
    """
    settings = settings_from(config, overrides_of(set, out))
    if getattr(settings, "kind", None) not in ("tokenizer", "pretrain"):
        raise ConfigError(f"{config}: this is a {getattr(settings, 'kind', None)!r} config, a 'pretrain' or "
                          "'tokenizer' config was expected.")
    from ..assembly.training import build_training

    return train(settings, build_training, resume=resume, dry_run=dry_run, progress=progress)


def settings_from(config: Config, overrides: list[str], schema: Optional[type[Any]] = None) -> Any:
    """The settings of a YAML file, or given ones, under overrides.

    Raises ConfigError as `load_config`, and for given settings of another kind than `schema`.
    """
    if not isinstance(config, RunConfig):
        return load_config(config, overrides, schema)
    if not overrides and isinstance(config, schema or RunConfig):
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
