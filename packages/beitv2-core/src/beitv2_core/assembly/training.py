# SPDX-License-Identifier: Apache-2.0
"""A whole training run from its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Union

from .. import _entry_points
from ..checkpoint.store import CheckpointStore
from ..config import PretrainConfig, RunConfig, TokenizerConfig, parse_config
from ..config.schema import grid_of
from ..config.sections import OptimConfig
from ..engine import distributed
from ..engine.health import HealthWatch
from ..engine.loop import TrainLoop
from ..engine.optim import build_optimizer
from ..engine.run_folder import RunFolder
from ..engine.schedule import step_schedule
from ..engine.step import Precision
from ..engine.tasks.mim_task import MimTask
from ..engine.tasks.vqkd_task import VQKDTask
from ..engine.trackers import ENTRY_POINTS, TRACKERS, TrackedRun, Tracker
from ..errors import ConfigError
from ..pixels.size import pair
from .batches import BatchPlan, plan_batches, seed_everything, with_fitting_batch
from .caches import build_code_cache, build_feature_cache
from .cards import card_beside, write_run_card
from .data import build_dataset, build_loader, build_transform
from .feature_monitor import build_monitor
from .models import build_mim, build_teacher, build_tokenizer
from .restore import load_tokenizer

log = logging.getLogger("beitv2_core")
AnyConfig = Union[TokenizerConfig, PretrainConfig]


class Parts(NamedTuple):
    """The parts of a run that the training loop is built from."""

    task: Any
    loader: Any
    plan: BatchPlan
    optimizer: Any
    at_end: Callable[[], dict[str, Any]] | None = None


def build_training(config: AnyConfig) -> TrainLoop:
    """The training loop of the settings, ready to `run(resume=...)`: data, models, optimizer, schedules, run folder.

    Raises ConfigError, DataError, CheckpointError, WeightsError or ShapeError naming the setting at fault.
    """
    return build_loop(config, build_parts(config, report=Path(config.output) / "corrupt_files.txt"))


def build_loop(config: RunConfig, parts: Parts, *, on_start: Sequence[Callable[[RunFolder], None]] = (),
               on_finish: Sequence[Callable[..., None]] = ()) -> TrainLoop:
    """The training loop for a method's parts; `on_finish` runs before the curves are drawn."""
    run = RunFolder(config.output, [*find_trackers(config.train.trackers), HealthWatch])
    optim, train, plan = config.optim, config.train, parts.plan
    for line in plan.lines(optim):
        log.info("%s", line)
    end = optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end
    return TrainLoop(
        parts.task,
        parts.loader,
        parts.optimizer,
        lr=step_schedule(plan.lr, optim.min_lr, total_steps=plan.total_steps, warmup_steps=plan.warmup_steps),
        weight_decay=step_schedule(optim.weight_decay, end, total_steps=plan.total_steps),
        run=run,
        store=CheckpointStore(run.checkpoints, keep_last=train.keep_last, keep_every=train.keep_every),
        config=config.resolved(),
        seed=config.seed,
        images_per_step=plan.total_batch,
        clip_norm=optim.clip_norm,
        accumulate=plan.accumulate,
        amp=train.amp,
        log_every=train.log_every,
        save_every=train.save_every,
        title=getattr(config, "kind", "training"),
        on_start=on_start,
        on_finish=[*on_finish, draw_curves, card_of_images(plan.images)],
        at_end=parts.at_end,
        sharding=train.sharding,
        other_data=train.other_data,
        check_every=train.check_every,
        verify_every=train.verify_every,
        reread=lambda saved: parse_config(saved, source="the checkpoint's settings", written_by="").resolved(),
    )


def card_of_images(images: int) -> Callable[[RunFolder, dict[str, Any]], None]:
    """What ends a run: its summary knows how many images it was trained on, and its model card is written."""
    def finish(run: RunFolder, summary: dict[str, Any]) -> None:
        summary["images"] = images
        with card_beside(run.path):
            write_run_card(run.path, summary)

    return finish


def find_trackers(names: Sequence[str]) -> list[Callable[[TrackedRun], Tracker]]:
    """The trackers of these names; ConfigError names those that are known."""
    return [_entry_points.load(ENTRY_POINTS, name, TRACKERS, "train.trackers") for name in dict.fromkeys(names)]


def draw_curves(run: RunFolder, summary: dict[str, Any]) -> None:
    """Draw the training curves into the run's folder of figures."""
    from ..viz.curves import training_curves  # Matplotlib takes a second to load

    path = run.figures / "curves.png"
    training_curves(run.metrics_file, path)
    run.log_figure("curves", path, int(summary["steps"]))


def build_parts(config: AnyConfig, report: Path | None = None, tokenizer: Any = None) -> Parts:
    """Task, loader, batch arithmetic and optimizer; the cheap checks come before the expensive models.

    tokenizer: a built one that takes the place of the one a pretraining run names.
    """
    distributed.init()
    config = with_fitting_batch(config)
    check_precision(config)
    dataset = build_dataset(config.data, report=report)
    plan = plan_batches(config.optim, config.train, len(dataset), distributed.world_size())
    loader = build_loader(dataset, build_transform(config), batch_size=config.train.batch_size,
                          accumulate=plan.accumulate, seed=config.seed, num_workers=config.data.num_workers)
    task = build_task(config, dataset, plan, tokenizer)
    optimizer = optimizer_of(config.optim, task.model, plan.lr, no_decay=task.no_weight_decay())
    return Parts(task, loader, plan, optimizer)


def optimizer_of(optim: OptimConfig, model: Any, lr: float, **groups: Any) -> Any:
    """The optimizer of the settings at the rate `lr`; groups: `build_optimizer`'s options of parameter groups."""
    return build_optimizer(optim.kind, model, lr=lr, weight_decay=optim.weight_decay, betas=optim.betas, eps=optim.eps,
                           momentum=optim.momentum, **groups)


def check_precision(config: AnyConfig) -> None:
    """ConfigError where the settings ask for mixed precision that this device does not compute."""
    Precision(config.train.amp)
    if isinstance(config, PretrainConfig):
        Precision(config.tokenizer.amp, off="tokenizer.amp=off")


def build_task(config: AnyConfig, dataset: Any, plan: BatchPlan, tokenizer: Any = None) -> Any:
    """The method: a tokenizer with its teacher, or a backbone with its frozen tokenizer and the codes of `dataset`.

    tokenizer: as in `build_parts`.
    """
    seed_everything(config.seed)
    if isinstance(config, TokenizerConfig):
        teacher = build_teacher(config.teacher, image_size=config.data.image_size, patch_size=config.encoder.patch_size)
        if tuple(teacher.grid) != config.grid:
            raise ConfigError(
                f"teacher {config.teacher.name!r} gives {tuple(teacher.grid)} features for an image, the encoder "
                f"{config.grid} patches. Change data.image_size, encoder.patch_size or teacher.options."
            )
        seed_everything(config.seed)  # the weights must not depend on random numbers that building the teacher used
        model = build_tokenizer(config, teacher_width=teacher.width)
        return VQKDTask(
            model,
            teacher,
            seed=config.seed,
            unquantized_steps=config.health.unquantized_steps,
            kmeans_batches=config.health.kmeans_batches,
            revive_after=config.health.revive_after,
            cache=None if config.teacher.cache is None else build_feature_cache(config, teacher, dataset),
        )
    source = config.tokenizer
    if tokenizer is None:
        tokenizer = load_tokenizer(source.weights, name=source.name, sha256=source.sha256)
    check_tokenizer_fits(config, tokenizer)
    tokenizer.drop_decoder()
    seed_everything(config.seed)
    student = build_mim(
        config.model,
        image_size=config.data.image_size,
        num_codes=tokenizer.num_codes,
        recompute=config.train.recompute,
    )
    cache = None if source.cache is None else build_code_cache(config, tokenizer, dataset)
    monitor = None if config.monitor.every is None else build_monitor(config, tokenizer.num_codes, plan)
    return MimTask(student, tokenizer, batch_size=source.batch_size, amp=source.amp, cache=cache, monitor=monitor)


def check_tokenizer_fits(config: PretrainConfig, tokenizer: Any) -> None:
    """ConfigError where the tokenizer's codes, image size or grid are not those of the settings."""
    source, wanted = config.tokenizer, config.data.token_image_size or config.data.image_size
    found = (tokenizer.num_codes, getattr(tokenizer, "code_dim", source.code_dim))
    asked = (source.num_codes or found[0], source.code_dim or found[1])
    if found != asked:
        raise ConfigError(
            f"{source.weights}: codebook is {found}, the config asks for {asked}. "
            f"Load it with tokenizer.num_codes={found[0]} tokenizer.code_dim={found[1]}."
        )
    if pair(tokenizer.image_size) != pair(wanted):
        height, width = pair(tokenizer.image_size)
        raise ConfigError(
            f"{source.weights}: this tokenizer reads {height}x{width} pixels, the config feeds it {pair(wanted)}. "
            f"Set data.token_image_size=[{height}, {width}]."
        )
    grid = grid_of(config.data.image_size, config.model.patch_size)
    if tuple(tokenizer.grid) != grid:
        raise ConfigError(
            f"{source.weights}: the tokenizer gives {tuple(tokenizer.grid)} codes for an image, the model has {grid} "
            "patches. Change data.image_size, model.patch_size or data.token_image_size so that the grids agree."
        )
