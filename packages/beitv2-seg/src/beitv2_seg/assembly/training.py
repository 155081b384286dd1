# SPDX-License-Identifier: Apache-2.0
"""A whole segmentation run from its settings."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from beitv2_core.assembly import build_loader, seed_everything
from beitv2_core.assembly.batches import batches_per_update, fitting_batch_size
from beitv2_core.assembly.training import card_of_images, draw_curves
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import parse_config
from beitv2_core.engine import distributed
from beitv2_core.engine.loop import FREE_SETTINGS as CORE_FREE_SETTINGS
from beitv2_core.engine.loop import TrainLoop
from beitv2_core.engine.run_folder import RunFolder
from beitv2_core.engine.step import SettingNames
from beitv2_seg.assembly.data import build_dataset, class_names, with_found_classes, with_ignored
from beitv2_seg.assembly.models import build_model
from beitv2_seg.assembly.pretrained import with_pretrained_settings
from beitv2_seg.config import SegmentConfig
from beitv2_seg.config.translate import KEYS, train_settings
from beitv2_seg.data.coverage import SeenLabels
from beitv2_seg.data.dataset import TrainSamples
from beitv2_seg.data.file_samples import ListedSamples
from beitv2_seg.data.forms import write_split
from beitv2_seg.paddleseg.installed import profiler_step
from beitv2_seg.paddleseg.training_parts import build_loss, build_optimizer, learning_rates, warmup_of
from beitv2_seg.reading.evaluate import Evaluation, evaluate
from beitv2_seg.training.segment_task import SegmentTask, write_pdparams

log = logging.getLogger("beitv2_seg")
#: settings a resumed run may change: core's, by the names they have here, and those that do not touch what is trained
FREE_SETTINGS = (*(KEYS[key] for key in CORE_FREE_SETTINGS if key in KEYS), "run.do_eval", "run.early_stop_intervals",
                 "run.windows_at_once", "val_dataset", "test_config", "model.backbone.pretrained", "classes")
#: what PaddleSeg's users call the settings of a run
NAMES = SettingNames(**{field: KEYS[f"train.{field}"] for field in SettingNames._fields if field != "amp_off"},
                     amp_off=f"{KEYS['train.amp']}=fp32 (--precision fp32)")


def build_segmentation(config: SegmentConfig, *, profiler_options: str | None = None) -> TrainLoop:
    """A loop ready to `run(resume=...)`: everything is built and checked before any training starts.

    profiler_options: of PaddleSeg's train_profiler, which is called after every step then.
    Raises ConfigError, DataError, CheckpointError or ShapeError naming the setting at fault.
    """
    distributed.init()
    # Paddle says it at every batch norm of every step.
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    config = with_pretrained_settings(config)
    config = config.model_copy(update={"batch_size": fitting_batch_size(
        train_settings(config), distributed.world_size(), batch_size_key=NAMES.batch_size,
        total_batch_key=NAMES.total_batch)})
    run, train = config.run, train_settings(config)
    processes, folder = distributed.world_size(), Path(config.output)
    accumulate = plan_accumulation(config, processes)
    train_set = build_dataset(config, "train_dataset", folder)
    config = with_found_classes(config, train_set)
    num_classes, names = config.model.num_classes, class_names(config)
    validation = build_dataset(config, "val_dataset", folder) if run.do_eval else None
    samples = TrainSamples(train_set, num_classes=num_classes, ignored=config.ignored, max_corrupt=run.max_corrupt,
                           repeats=run.repeats, report=folder / "corrupt_files.txt")
    loader = build_loader(samples, samples, batch_size=train.batch_size, accumulate=accumulate, seed=run.seed,
                          num_workers=run.num_workers, batch_size_key=NAMES.batch_size,
                          total_batch_key=NAMES.total_batch)
    rates = learning_rates(config.lr_scheduler, config.iters)
    warmup = warmup_of(config.lr_scheduler)
    if warmup >= config.iters:
        log.warning("lr_scheduler: the warm-up of %d iterations is not over after the run's %d: the rate stays below "
                    "its peak, at most %.3g. Shorten it (warmup, of Paddle's schedules warmup_iters) or raise iters.",
                    warmup, config.iters, rates.max())
    seed_everything(run.seed)
    model = build_model(config)
    losses = [(weight, build_loss(with_ignored(loss.model_dump(), f"loss.types[{i}]", config.ignored),
                                  f"loss.types[{i}]"))
              for i, (weight, loss) in enumerate(zip(config.loss.coef, config.loss.types))]

    def measure(segmentor: Any) -> Evaluation:
        return evaluate(segmentor, validation, config.test_config, num_classes=num_classes, ignored=config.ignored,
                        window_batch=run.windows_at_once, num_workers=run.num_workers)

    after_update = {} if profiler_options is None else {"after_update": profiler_step(profiler_options)}
    task = SegmentTask(model, losses, total_steps=config.iters, measure=measure if run.do_eval else None,
                       seen=SeenLabels(names, ignored=config.ignored, label_map=config.label_map),
                       warn=lambda found: found.warnings(config, names), every=train.save_every, folder=folder,
                       patience=run.early_stop_intervals, use_ema=run.use_ema, **after_update)
    optimizer, weight_decay = build_optimizer(config.optimizer, model, float(rates.max()), sharding=train.sharding)
    decay = np.full(len(rates), weight_decay)
    total = train.batch_size * processes * accumulate
    for line in batch_lines(config, processes, len(samples)):
        log.info("%s", line)
    folders = RunFolder(folder)

    def finish(_: RunFolder, summary: dict[str, Any]) -> None:
        write_pdparams(model, folder / f"iter_{summary['steps']}" / "model.pdparams")

    def start(run: RunFolder) -> None:
        if isinstance(train_set, ListedSamples):
            write_split(train_set.samples, run.path)

    return TrainLoop(task, loader, optimizer, lr=rates, weight_decay=decay, run=folders, config=config.resolved(),
                     seed=run.seed, store=CheckpointStore(folders.checkpoints, keep_last=train.keep_last),
                     images_per_step=total, accumulate=accumulate, amp=train.amp, log_every=train.log_every,
                     save_every=train.save_every, title="segment", on_start=[start],
                     on_finish=[finish, draw_curves, card_of_images(len(train_set))], at_end=task.final_values,
                     free_settings=free_settings(train_set),
                     reread=lambda saved: parse_config(saved, SegmentConfig, source="the checkpoint's settings",
                                                       written_by="").resolved(), sharding=train.sharding, names=NAMES,
                     other_data=train.other_data, check_every=train.check_every, verify_every=train.verify_every)


def free_settings(train_set: Any) -> tuple[str, ...]:
    """The settings a resumed run may change: names of classes only where they do not number them, as COCO's do."""
    drawn = getattr(train_set, "drawn", None)
    return FREE_SETTINGS if drawn is None else tuple(key for key in FREE_SETTINGS if key != "classes")


def batch_lines(config: SegmentConfig, processes: int, samples: int) -> list[str]:
    """The batch arithmetic of a run, in words."""
    accumulate = plan_accumulation(config, processes)
    total = config.batch_size * processes * accumulate
    return [f"total batch: {total} = {config.batch_size} images x {processes} process(es) x {accumulate} accumulated",
            f"iterations: {config.iters}, {samples / total:.1f} an epoch ({samples} samples)"]


def plan_accumulation(config: SegmentConfig, processes: int) -> int:
    """Batches behind one update; ConfigError where total_batch is no multiple of batch_size x processes."""
    return batches_per_update(train_settings(config), processes, batch_size_key=NAMES.batch_size,
                              total_batch_key=NAMES.total_batch)
