# SPDX-License-Identifier: Apache-2.0
"""Segmentation runs from their settings, and segmentors from their runs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beitv2_core.assembly import seed_everything, set_weights
from beitv2_core.assembly.found import read_weights_for
from beitv2_core.assembly.kinds import find_kind
from beitv2_core.assembly.restore import read_checkpoint
from beitv2_core.assembly.training import draw_curves
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import parse_config
from beitv2_core.data import Loader, ResumableSampler
from beitv2_core.engine import distributed
from beitv2_core.engine.loop import TrainLoop
from beitv2_core.engine.run_folder import RunFolder
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_seg.components import COMPONENTS, argument_names, build_component, find_component
from beitv2_seg.config import IGNORED_KEYS, Component, SegmentConfig
from beitv2_seg.data.coverage import SeenLabels
from beitv2_seg.data.dataset import TrainSamples, check_ade20k, check_files
from beitv2_seg.data.file_samples import FileSamples, read_by_us
from beitv2_seg.paddleseg_parts import build_loss, build_optimizer, learning_rates, warmup_of
from beitv2_seg.pretrained import with_pretrained_settings
from beitv2_seg.reading.evaluate import Evaluation, evaluate
from beitv2_seg.training.segment_task import SegmentTask, write_pdparams

log = logging.getLogger("beitv2_seg")
#: settings a resumed run may change: they do not touch what is computed (the loader refuses another total batch)
FREE_SETTINGS = ("output", "batch_size", "total_batch", "run.num_workers", "run.save_interval", "run.log_iters",
                 "run.keep_checkpoint_max", "run.sharding", "run.do_eval", "run.early_stop_intervals",
                 "run.windows_at_once", "run.max_corrupt", "run.other_data", "val_dataset", "test_config",
                 "train_dataset.dataset_root", "model.backbone.pretrained", "model.backbone.recompute", "classes")
#: data sets that make their samples themselves, without files
OWN_DATASETS = COMPONENTS["DATASETS"]
AMP = {"fp32": "off", "fp16": "fp16", "bf16": "bf16"}


class Segmentor(NamedTuple):
    """A trained model in eval mode, its settings and the names of its classes."""

    model: Any
    config: SegmentConfig
    classes: list[str]


def build_segmentation(config: SegmentConfig, *, profiler_options: str | None = None) -> TrainLoop:
    """A loop ready to `run(resume=...)`: everything is built and checked before any training starts.

    profiler_options: of PaddleSeg's train_profiler, which is called after every step then.
    Raises ConfigError, DataError, CheckpointError or ShapeError naming the setting at fault.
    """
    distributed.init()
    # Paddle says it at every batch norm of every step.
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    config = with_pretrained_settings(config)
    run, processes, folder = config.run, distributed.world_size(), Path(config.output)
    accumulate = plan_accumulation(config, processes)
    num_classes, names = config.model.num_classes, class_names(config)
    train_set = build_dataset(config, "train_dataset")
    validation = build_dataset(config, "val_dataset") if run.do_eval else None
    samples = TrainSamples(train_set, num_classes=num_classes, ignored=config.ignored, max_corrupt=run.max_corrupt,
                           repeats=run.repeats, report=folder / "corrupt_files.txt")
    sampler = ResumableSampler(len(samples), batch_size=config.batch_size, rank=distributed.rank(),
                               world_size=processes, accumulate=accumulate, seed=run.seed)
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
                        at_once=run.windows_at_once)

    task = SegmentTask(model, losses, total_steps=config.iters, measure=measure if run.do_eval else None,
                       seen=SeenLabels(names, ignored=config.ignored, label_map=config.label_map),
                       warn=lambda found: found.warnings(config, names), every=run.save_interval, folder=folder,
                       patience=run.early_stop_intervals, use_ema=run.use_ema, profiler_options=profiler_options)
    optimizer, weight_decay = build_optimizer(config.optimizer, model, float(rates.max()), sharding=run.sharding)
    decay = np.full(len(rates), weight_decay)
    total = config.batch_size * processes * accumulate
    for line in batch_lines(config, processes, len(samples)):
        log.info("%s", line)
    folders = RunFolder(folder)

    def finish(_: RunFolder, summary: dict[str, Any]) -> None:
        write_pdparams(model, folder / f"iter_{summary['steps']}" / "model.pdparams")

    return TrainLoop(task, Loader(samples, samples, sampler, num_workers=run.num_workers, seed=run.seed), optimizer,
                     lr=rates, weight_decay=decay, run=folders, config=config.resolved(), seed=run.seed,
                     store=CheckpointStore(folders.checkpoints, keep_last=run.keep_checkpoint_max),
                     images_per_step=total, accumulate=accumulate, amp=AMP[run.precision], log_every=run.log_iters,
                     save_every=run.save_interval, title="segment", on_finish=[finish, draw_curves],
                     at_end=task.final_values, free_settings=FREE_SETTINGS, sharding=run.sharding, section="run",
                     amp_off="run.precision=fp32 (--precision fp32)", other_data=run.other_data)


def batch_lines(config: SegmentConfig, processes: int, samples: int) -> list[str]:
    """The batch arithmetic of a run, in words."""
    accumulate = plan_accumulation(config, processes)
    total = config.batch_size * processes * accumulate
    return [f"total batch: {total} = {config.batch_size} images x {processes} process(es) x {accumulate} accumulated",
            f"iterations: {config.iters}, {samples / total:.1f} an epoch ({samples} samples)"]


def plan_accumulation(config: SegmentConfig, processes: int) -> int:
    """Batches behind one update; ConfigError where total_batch is no multiple of what is handled at once."""
    at_once = config.batch_size * processes
    total = config.total_batch or at_once
    if total % at_once:
        raise ConfigError(f"total_batch: {total} is not a multiple of {config.batch_size} images x {processes} "
                          f"process(es) = {at_once}. Change batch_size or total_batch.")
    return total // at_once


def build_dataset(config: SegmentConfig, where: str) -> Any:
    """The data set of that section, its files checked, in order and read by us.

    Raises ConfigError where its classes or its ignored label are others than the run's, or its labels cannot be mapped.
    """
    spec: Component = getattr(config, where)
    options, num_classes = spec.options(), config.model.num_classes
    if where == "train_dataset" and options.get("mode", "train") != "train":
        raise ConfigError(f"train_dataset.mode: {options['mode']!r}; PaddleSeg gives labels to the transforms only in "
                          "'train'. To train on other images, put them where the data set looks for training ones.")
    if spec.type == "ADE20K":
        check_ade20k(options.get("dataset_root"), options.get("mode", "train"), where)
    tree = with_ignored(spec.model_dump(), where, config.ignored)
    known = argument_names(find_component(spec.type, where))
    if known is not None and "num_classes" in known:
        tree.setdefault("num_classes", num_classes)
    dataset = build_component(tree, where)
    classes = getattr(dataset, "num_classes", num_classes)
    if classes != num_classes:
        raise ConfigError(f"model.num_classes: {num_classes}, but {where} ({spec.type}) has {classes} classes. Set "
                          f"model.num_classes to {classes}.")
    ignored = getattr(dataset, "ignore_index", config.ignored)
    if ignored != config.ignored:
        raise ConfigError(f"ignore_index: {config.ignored}, but {where} ({spec.type}) marks pixels without a class by "
                          f"{ignored}. Set ignore_index to {ignored}, or leave it out.")
    if not isinstance(dataset, (FileSamples, *OWN_DATASETS)):
        dataset = read_by_us(dataset)
    if isinstance(dataset, FileSamples):
        dataset.max_pixels = config.run.max_pixels
    if config.label_map:
        if not isinstance(dataset, FileSamples) or dataset.reduce_zero:
            raise ConfigError(f"label_map: {where} ({spec.type}) numbers its labels itself. Leave label_map out, or "
                              "name the files in a list: type: Dataset.")
        dataset.label_map = config.label_map
    check_files(dataset, where)
    return dataset


def with_ignored(spec: Mapping[str, Any], where: str, ignored: int) -> dict[str, Any]:
    """A component's section with the run's ignored label at every part of it that takes one and sets none."""
    filled = {key: [with_ignored(item, f"{where}.{key}[{i}]", ignored) if isinstance(item, Mapping) and "type" in item
                    else item for i, item in enumerate(value)] if isinstance(value, (list, tuple)) else
              with_ignored(value, f"{where}.{key}", ignored) if isinstance(value, Mapping) and "type" in value else
              value for key, value in spec.items()}
    known = argument_names(find_component(str(filled["type"]), where)) or {}
    return {**filled, **{key: ignored for key in IGNORED_KEYS if key in known and key not in filled}}


def build_model(config: SegmentConfig, *, pretrained: bool = True) -> Any:
    """The segmentor of the settings; without `pretrained` its weights are fresh whatever the settings say."""
    spec = config.model.model_dump()
    if not pretrained:
        spec["backbone"]["pretrained"] = None
    return build_component(spec, "model")


def load_segmentor(source: str, config: SegmentConfig | None = None) -> Segmentor:
    """The trained segmentor of a run folder or .pdckpt, or of a .pdparams file together with its settings.

    Raises CheckpointError for a checkpoint of another kind, ConfigError for lone weights without settings.
    """
    found = read_checkpoint(source, wanted=("segmentation",), unknown=True)
    if found.config:
        kept = parse_config(found.config, source=str(found.path))
        if not isinstance(kept, SegmentConfig):
            raise CheckpointError(f"{found.path}: this is a {found.config.get('kind')!r} run; a run of `beitv2 segment "
                                  "train` was expected.")
        if config is not None and _architecture(config) != _architecture(kept):
            log.warning("%s: the model is the run's; the section model of --config says another one and is not read.",
                        found.path)
        config = kept if config is None else config.model_copy(update={"model": kept.model})
    if config is None:
        raise ConfigError(f"{found.path}: weights without settings. Give --config, the YAML they were trained with.")
    model = build_model(config, pretrained=False)
    weights = found.weights
    if not found.config and (found.model is None or find_kind(found.model.kind).run != "segment"):  # an unknown head
        weights = read_weights_for(model.state_dict(), found.path)
    set_weights(model, weights, str(found.path))
    model.eval()
    return Segmentor(model, config, class_names(config))


def _architecture(config: SegmentConfig) -> dict[str, Any]:
    """The section `model` without what says where weights come from."""
    model = config.model.model_dump()
    for key in ("pretrained", "pretrained_ema", "recompute"):
        model["backbone"].pop(key, None)
    return model


def class_names(config: SegmentConfig) -> list[str]:
    """Names of the classes: those of `classes`, the data set's own, ADE20K's, or numbers."""
    spec, count = config.val_dataset, config.model.num_classes
    if config.classes is not None:
        return list(config.classes)
    if spec.type == "ADE20K":
        return (Path(__file__).parent / "ade20k_classes.txt").read_text(encoding="utf-8").splitlines()[:count]
    names = getattr(find_component(spec.type, "val_dataset"), "CLASSES", None)
    return list(names) if names is not None and len(names) == count else [str(i) for i in range(count)]


def image_transforms(config: SegmentConfig) -> list[Any]:
    """The transforms an image goes through before it is predicted: those of val_dataset."""
    steps: list[Mapping[str, Any]] = config.val_dataset.options().get("transforms", [])
    return [build_component(with_ignored(step, f"val_dataset.transforms[{i}]", config.ignored),
                            f"val_dataset.transforms[{i}]") for i, step in enumerate(steps)]
