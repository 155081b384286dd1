# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning and linear-probe runs from their settings, and classifiers from their runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beitv2_cls.accuracy import evaluate
from beitv2_cls.classes import class_names, keep_classes
from beitv2_cls.classifier import BEiTClassifier, without_decay
from beitv2_cls.config import FinetuneConfig, LabelledRunConfig, LinearProbeConfig
from beitv2_cls.data import build_data, refuse_shared, warn_shared
from beitv2_cls.finetune_task import FinetuneTask
from beitv2_cls.linear_probe import LinearProbes, LinearProbeTask, Probe, draw_probes, measure_probes, write_table
from beitv2_core.assembly import (
    Parts,
    architecture_of,
    build_loader,
    build_loop,
    build_mim,
    load_mim,
    plan_batches,
    seed_everything,
    set_weights,
    with_fitting_batch,
)
from beitv2_core.assembly.batches import BatchPlan
from beitv2_core.assembly.from_architecture import build_described
from beitv2_core.assembly.loaded_weights import Hints
from beitv2_core.assembly.models import trunk_options
from beitv2_core.assembly.preprocessing import preprocessing_of
from beitv2_core.assembly.restore import FileConfig, build_file, freeze, read_checkpoint, read_config, settings_of
from beitv2_core.assembly.training import optimizer_of
from beitv2_core.assembly.transfer import PRETRAINING_ONLY, transfer_trunk
from beitv2_core.config import PretrainConfig, RunConfig
from beitv2_core.data import Loader
from beitv2_core.data.views.classify_recipe import ClassTrainTransform
from beitv2_core.data.views.mixup import Mixup
from beitv2_core.engine import distributed
from beitv2_core.engine.loop import TrainLoop
from beitv2_core.engine.optim import layer_decay_scale
from beitv2_core.errors import CheckpointError, DataError
from beitv2_core.pixels.size import pair

log = logging.getLogger("beitv2_cls")
PROBE_TABLE = "linear_probe.csv"


def build_finetuning(config: FinetuneConfig) -> TrainLoop:
    """A loop ready to `run(resume=...)`; data and checkpoint are checked before any training starts."""
    parts = finetuning_parts(config)
    return build_loop(config, parts, on_start=[partial(keep_classes, classes=parts.task.classes)])


def finetuning_parts(config: FinetuneConfig) -> Parts:
    """The parts of a fine-tuning run; nothing is written."""
    distributed.init()
    config = with_fitting_batch(config)
    train_set, validation = build_data(config)
    if validation is not None:
        warn_shared(train_set, validation)
    classes = train_set.classes
    optim, augment, check = config.optim, config.augment, config.validation
    plan = plan_batches(optim, config.train, len(train_set), distributed.world_size())
    seed_everything(config.seed)
    model = build_classifier(config, len(classes))
    if config.pretrained.weights:
        load_trunk(model, config)
    transform = ClassTrainTransform(
        config.data.image_size, scale=config.data.crop_scale, interpolation=config.data.interpolation,
        flip=augment.flip, policy=augment.policy, jitter=config.data.color_jitter, erase_prob=augment.erase_prob,
        erase_count=augment.erase_count, draft=config.data.draft)
    mix = None
    if augment.mixup or augment.cutmix:
        mix = Mixup(augment.mixup, augment.cutmix, prob=augment.mix_prob, switch_prob=augment.switch_prob,
                    mode=augment.mix_mode)

    def measure(classifier: Any) -> dict[str, float]:
        found = evaluate(classifier, validation, config.data.image_size, crop_share=check.crop_share,
                         batch_size=check.batch_size, num_workers=config.data.num_workers)
        return {"val_acc1": found.top1, "val_acc5": found.top5, "val_loss": found.loss}

    loader = _loader(config, train_set, transform, plan)
    task = FinetuneTask(model, classes=classes, mix=mix, smoothing=augment.smoothing, ema_decay=config.ema_decay,
                        measure=measure if validation is not None else None,
                        due=_after_epochs(check.every_epochs, loader, plan))
    optimizer = optimizer_of(optim, model, plan.lr, lr_scale=layer_decay_scale(model.depth, config.layer_decay),
                             no_decay=without_decay(model, decay_rel_pos_bias=optim.decay_rel_pos_bias))
    return Parts(task, loader, plan, optimizer, at_end=task.last_values)


def build_linear_probe(config: LinearProbeConfig) -> TrainLoop:
    """A loop ready to `run(resume=...)`: every linear classifier is trained in one pass, the best is reported.

    Raises DataError without validation images: there would be no best.
    """
    parts = linear_probe_parts(config)
    probes: list[Probe] = parts.task.model.probes
    table: list[float] = []
    log.info("linear probe: %d classifiers (block, feature, rate) in one pass; the loss shown is their mean.",
             len(probes))

    def at_end() -> dict[str, Any]:
        table[:] = parts.task.last_values().tolist()
        best = max(range(len(table)), key=table.__getitem__)
        return {"top1": table[best], **probes[best]._asdict()}

    def finish(run: Any, summary: dict[str, Any]) -> None:
        write_table(run.path / PROBE_TABLE, probes, table)
        draw_probes(run.path / "figures" / "linear_probe.png", probes, table)

    return build_loop(config, parts._replace(at_end=at_end), on_finish=[finish],
                      on_start=[partial(keep_classes, classes=parts.task.classes)])


def linear_probe_parts(config: LinearProbeConfig) -> Parts:
    """The parts of a linear evaluation; nothing is written."""
    distributed.init()
    config = with_fitting_batch(config)
    train_set, validation = build_data(config)
    if validation is None:
        raise DataError("validation.root: a linear probe is a comparison and needs validation images. Set it to a "
                        "folder of class folders.")
    refuse_shared(train_set, validation, "data.root and validation.root: a linear probe is measured on what it was not "
                  "fitted to")
    optim, probe, check = config.optim, config.probe, config.validation
    plan = plan_batches(optim, config.train, len(train_set), distributed.world_size())
    seed_everything(config.seed)
    trunk = build_classifier(config, len(train_set.classes))
    if config.pretrained.weights:
        load_trunk(trunk, config)
    probes = LinearProbes(freeze(trunk), num_classes=len(train_set.classes), features=probe.features,
                          layers=range(trunk.depth) if probe.layers is None else probe.layers, rates=probe.rates)
    transform = ClassTrainTransform(config.data.image_size, scale=config.data.crop_scale,
                                    interpolation=config.data.interpolation, flip=probe.flip, policy=None,
                                    jitter=config.data.color_jitter, erase_prob=0.0,
                                    draft=config.data.draft)

    def measure(model: LinearProbes) -> np.ndarray:
        return measure_probes(model, validation, config.data.image_size, crop_share=check.crop_share,
                              batch_size=check.batch_size, num_workers=config.data.num_workers)

    loader = _loader(config, train_set, transform, plan)
    task = LinearProbeTask(probes, classes=train_set.classes, measure=measure,
                           due=_after_epochs(check.every_epochs, loader, plan))
    optimizer = optimizer_of(optim, probes, plan.lr, lr_scale=probes.rate_scale(optim.lr), decay_all=True)
    return Parts(task, loader, plan, optimizer)


def _loader(config: LabelledRunConfig, train_set: Any, transform: Any, plan: BatchPlan) -> Loader:
    return build_loader(train_set, transform, batch_size=config.train.batch_size, accumulate=plan.accumulate,
                        seed=config.seed, num_workers=config.data.num_workers)


def _after_epochs(every: int, loader: Loader, plan: BatchPlan) -> Callable[[int], bool]:
    """Whether an update (from 0) ends an epoch whose number is a multiple of `every`, or the run."""

    def due(step: int) -> bool:
        before, now = (count * plan.accumulate // loader.steps_per_epoch for count in (step, step + 1))
        return step + 1 == plan.total_steps or now != before and now % every == 0

    return due


def build_classifier(config: LabelledRunConfig, num_classes: int) -> BEiTClassifier:
    """The classifier of the settings, freshly initialised."""
    model = config.model
    options = trunk_options(model, image_size=config.data.image_size, patch_size=model.patch_size)
    return BEiTClassifier(num_classes=num_classes, pooling=model.pooling, head_scale=model.head_scale,
                          recompute=config.train.recompute, **options)


def load_trunk(model: BEiTClassifier, config: FinetuneConfig | LinearProbeConfig) -> None:
    """Load a pretrained trunk into the classifier; CheckpointError names a checkpoint of another kind or size.

    A fine-tuned model may be given too (ImageNet-22k before 1k, 224 px before 384): its final norm is kept, and
    its head where it has the same number of classes.  Source: official run_class_finetuning.py.
    """
    source = config.pretrained
    size = None if Path(str(source.weights)).is_dir() else source.image_size  # a run has its own
    hints = Hints(size=None if size is None else pair(size), ema=source.ema)
    trunk = architecture_of(str(source.weights), sha256=source.sha256, hints=hints)
    trunk.fill(config.model.model_dump(), "model.")
    height, width = trunk.check_image_size(source.image_size, "pretrained.image_size")
    rows, columns = pair(trunk.settings["patch_size"])
    found = read_checkpoint(str(source.weights), sha256=source.sha256, hints=hints)
    weights = found.weights
    drop: tuple[str, ...] = PRETRAINING_ONLY
    if "head.weight" in weights:  # another fine-tuned model: its norm is kept, its head where the classes are as many
        drop = ()
        if int(weights["head.bias"].shape[0]) != model.num_classes:
            drop = ("head.",)
    fresh = transfer_trunk(model, weights, str(found.path), source_grid=(height // rows, width // columns),
                           drop=drop)
    log.info("%s: trunk loaded; new: %s", found.path, ", ".join(fresh))


def load_classifier(source: str) -> tuple[BEiTClassifier, FinetuneConfig | None, list[str]]:
    """The classifier of a fine-tuning run, a checkpoint or a weights file, in eval mode; settings; class names.

    The settings are the run's; None for a weights file.

    Raises CheckpointError for what holds no classifier.
    """
    found, config = read_checkpoint(source, wanted=("classifier",)), None
    if found.config:
        config = settings_of(found)
        if not isinstance(config, FinetuneConfig):
            raise CheckpointError(f"{source}: this is a {config.kind!r} run; a classifier was expected: a run of "
                                  "`beitv2 finetune`, one of its checkpoints, or a file of weights.")
        model = build_classifier(config, int(found.weights["head.bias"].shape[0]))
        set_weights(model, found.weights, str(found.path))
        model.eval()
    else:
        model = build_file(found, ("classifier",))
    return model, config, class_names(found.classes, source, model.num_classes)


class Backbone(NamedTuple):
    """A frozen trunk, the settings of its run (None: a lone file), and a builder of it with random weights."""

    model: Any
    config: RunConfig | None
    fresh: Callable[[], Any]


def load_backbone(source: str) -> Backbone:
    """The trunk of a pretraining or fine-tuning run, a checkpoint or a weights file; CheckpointError for others."""
    config = read_config(source)
    if isinstance(config, FileConfig):
        found = read_checkpoint(source)
        model = build_file(found, ("classifier", "pretraining", "backbone"))
        kind = "" if found.model is None else found.model.kind
        return Backbone(model, None, lambda: build_described(kind, config.architecture, source))
    if isinstance(config, FinetuneConfig):
        classifier = load_classifier(source)[0]
        return Backbone(freeze(classifier), config, lambda: build_classifier(config, classifier.num_classes))
    if isinstance(config, PretrainConfig):
        student = load_mim(source)[0]
        return Backbone(student, config, lambda: build_mim(config.model, image_size=config.data.image_size,
                                                           num_codes=student.num_codes))
    raise CheckpointError(f"{source}: this is a {config.kind!r} run; a run of `beitv2 pretrain` or `beitv2 finetune` "
                          "was expected, one of their checkpoints, or a file of weights.")


def untrained(backbone: Backbone) -> Any:
    """The same trunk with the random weights a run with its seed starts from, frozen."""
    seed_everything(0 if backbone.config is None else backbone.config.seed)
    return freeze(backbone.fresh())


def crop_share_of(model: BEiTClassifier, source: str) -> float:
    """Share of the short side a classifier's images keep: of its run or saved folder, or as the published are measured.
    """
    return preprocessing_of(source, "classifier", pair(model.image_size)).crop_share
