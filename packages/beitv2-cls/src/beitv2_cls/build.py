"""Fine-tuning and linear-probe runs from their settings, and classifiers from their runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from beitv2_cls.classifier import BEiTClassifier, layer_decay_scale
from beitv2_cls.config import FinetuneConfig, LabelledRunConfig, LinearProbeConfig
from beitv2_cls.evaluate import evaluate
from beitv2_cls.finetune_task import FinetuneTask
from beitv2_cls.linear_probe import LinearProbes, LinearProbeTask, draw_probes, measure_probes, write_table
from beitv2_core.assembly import Parts, build_dataset, build_loop, load_mim, plan_batches, seed_everything, set_weights
from beitv2_core.assembly.models import trunk_options
from beitv2_core.assembly.restore import freeze, read_checkpoint, read_config
from beitv2_core.assembly.transfer import PRETRAINING_ONLY, transfer_trunk
from beitv2_core.config import PretrainConfig, parse_config
from beitv2_core.config.schema import grid_of
from beitv2_core.data import Loader, ResumableSampler
from beitv2_core.data.classify_set import ClassTrainTransform
from beitv2_core.data.mixup import Mixup
from beitv2_core.engine import distributed
from beitv2_core.engine.loop import TrainLoop
from beitv2_core.engine.optim import build_optimizer
from beitv2_core.errors import CheckpointError, ConfigError, DataError

log = logging.getLogger("beitv2_cls")
CLASSES_FILE = "classes.json"
PROBE_TABLE = "linear_probe.csv"


def build_finetuning(config: FinetuneConfig) -> TrainLoop:
    """A loop ready to `run(resume=...)`; data and checkpoint are checked before any training starts."""
    distributed.init()
    train_set, validation = build_data(config)
    classes = list(train_set.classes)
    processes, optim, augment, train = distributed.world_size(), config.optim, config.augment, config.train
    plan = plan_batches(optim, train, len(train_set), processes)
    seed_everything(config.seed)
    model = build_classifier(config, len(classes))
    if config.pretrained.weights:
        load_trunk(model, config)
    sampler = ResumableSampler(len(train_set), batch_size=train.batch_size, rank=distributed.rank(),
                               world_size=processes, accumulate=plan.accumulate, seed=config.seed,
                               order=getattr(train_set, "order", None))
    transform = ClassTrainTransform(
        config.data.image_size, scale=config.data.crop_scale, interpolation=config.data.interpolation,
        flip=augment.flip, policy=augment.policy, jitter=config.data.color_jitter, erase_prob=augment.erase_prob,
        erase_count=augment.erase_count, draft=config.data.draft)
    mix = None
    if augment.mixup or augment.cutmix:
        mix = Mixup(augment.mixup, augment.cutmix, prob=augment.mix_prob, switch_prob=augment.switch_prob,
                    mode=augment.mix_mode)

    def measure(classifier: Any) -> dict[str, float]:
        check = config.validation
        found = evaluate(classifier, validation, config.data.image_size, crop_share=check.crop_share,
                         batch_size=check.batch_size)
        return {"val_acc1": found.top1, "val_acc5": found.top5, "val_loss": found.loss}

    task = FinetuneTask(model, mix=mix, smoothing=augment.smoothing, ema_decay=config.ema_decay,
                        measure=measure if validation is not None else None,
                        every_epochs=config.validation.every_epochs)
    optimizer = build_optimizer(optim.kind, model, lr=plan.lr, weight_decay=optim.weight_decay, betas=optim.betas,
                                eps=optim.eps, momentum=optim.momentum, no_decay=task.no_weight_decay(),
                                lr_scale=layer_decay_scale(model.depth, config.layer_decay))
    loader = Loader(train_set, transform, sampler, num_workers=config.data.num_workers, seed=config.seed)

    def finish(run: Any, summary: dict[str, Any]) -> None:
        (run.path / CLASSES_FILE).write_text(json.dumps(classes) + "\n", encoding="utf-8")

    return build_loop(config, Parts(task, loader, plan, optimizer, at_end=task.measure_now), on_finish=[finish])


def build_linear_probe(config: LinearProbeConfig) -> TrainLoop:
    """A loop ready to `run(resume=...)`: every linear classifier is trained in one pass, the best is reported.

    Raises DataError without validation pictures: there would be no best.
    """
    distributed.init()
    train_set, validation = build_data(config)
    if validation is None:
        raise DataError("validation.root: a linear probe is a comparison and needs validation pictures. Set it to a "
                        "folder of class folders.")
    optim, train, probe, check = config.optim, config.train, config.probe, config.validation
    processes = distributed.world_size()
    plan = plan_batches(optim, train, len(train_set), processes)
    seed_everything(config.seed)
    trunk = build_classifier(config, len(train_set.classes))
    if config.pretrained.weights:
        load_trunk(trunk, config)
    probes = LinearProbes(freeze(trunk), num_classes=len(train_set.classes), features=probe.features,
                          layers=range(trunk.depth) if probe.layers is None else probe.layers, rates=probe.rates)
    sampler = ResumableSampler(len(train_set), batch_size=train.batch_size, rank=distributed.rank(),
                               world_size=processes, accumulate=plan.accumulate, seed=config.seed,
                               order=getattr(train_set, "order", None))
    transform = ClassTrainTransform(config.data.image_size, scale=config.data.crop_scale,
                                    interpolation=config.data.interpolation, flip=probe.flip, policy=None,
                                    jitter=config.data.color_jitter, erase_prob=0.0,
                                    draft=config.data.draft)

    def measure(model: LinearProbes) -> np.ndarray:
        return measure_probes(model, validation, config.data.image_size, crop_share=check.crop_share,
                              batch_size=check.batch_size)

    task = LinearProbeTask(probes, measure=measure, every_epochs=check.every_epochs)
    optimizer = build_optimizer(optim.kind, probes, lr=plan.lr, weight_decay=optim.weight_decay, betas=optim.betas,
                                eps=optim.eps, momentum=optim.momentum, lr_scale=probes.rate_scale(optim.lr),
                                decay_all=True)
    loader = Loader(train_set, transform, sampler, num_workers=config.data.num_workers, seed=config.seed)

    table: list[float] = []

    def at_end() -> dict[str, Any]:
        top1 = measure(probes)
        table[:] = top1.tolist()
        best = int(top1.argmax())
        return {"top1": table[best], **probes.probes[best]._asdict()}

    def finish(run: Any, summary: dict[str, Any]) -> None:
        write_table(run.path / PROBE_TABLE, probes.probes, table)
        draw_probes(run.path / "figures" / "linear_probe.png", probes.probes, table)

    return build_loop(config, Parts(task, loader, plan, optimizer, at_end=at_end), on_finish=[finish])


def build_data(config: LabelledRunConfig) -> tuple[Any, Any]:
    """Training and validation pictures with the same classes; validation is None where none was given.

    Raises DataError for a single class, labels out of range, and classes that only one of the two sets knows.
    """
    data, check = config.data, config.validation
    report = Path(config.output) / "corrupt_files.txt"
    train_set = build_dataset(data, report=report, with_classes=True)
    classes = train_set.classes
    if len(classes) < 2:
        raise DataError(f"{train_set!r}: a single class ({classes[0]!r}); a classifier needs at least two. Give class "
                        "folders below data.root, or a list file with labels.")
    asked = config.model.num_classes
    if asked is not None and asked != len(classes):
        raise ConfigError(f"model.num_classes is {asked}, {train_set!r} has {len(classes)}. Set "
                          f"model.num_classes={len(classes)} or give the data the setting is meant for.")
    if data.dataset == "digit_scenes":
        return train_set, build_dataset(data, split="test", size=check.size)
    empty = classes_without_pictures(train_set)
    if empty:
        raise DataError(f"{train_set!r}: no picture of class {', '.join(empty[:5])} ({len(empty)} in all). Add some, "
                        "or remove the class.")
    if check.root is None:
        log.warning("validation.root is not given: accuracy is not measured. Set it to a folder of class folders.")
        return train_set, None
    changed = data.model_copy(update={"root": check.root, "list_file": check.list_file})
    validation = build_dataset(changed, report=report.with_name("corrupt_validation_files.txt"), with_classes=True)
    if list(validation.classes) != list(classes):
        missing = sorted(set(classes) - set(validation.classes))
        unknown = sorted(set(validation.classes) - set(classes))
        raise DataError(
            f"{check.root}: its classes are not those of {data.root}: {len(missing)} missing "
            f"({', '.join(missing[:5])}), {len(unknown)} unknown ({', '.join(unknown[:5])}). Use the same folders."
        )
    unseen = classes_without_pictures(validation)
    if unseen:
        log.warning("%r: no picture of class %s (%d in all): its accuracy is not measured.", validation,
                    ", ".join(unseen[:5]), len(unseen))
    return train_set, validation


def classes_without_pictures(dataset: Any) -> list[str]:
    """Names of the classes that no picture of a labelled data set belongs to."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return [dataset.classes[i] for i in np.flatnonzero(counts == 0)]


def build_classifier(config: LabelledRunConfig, num_classes: int) -> BEiTClassifier:
    """The classifier of the settings, freshly initialised."""
    model = config.model
    options = trunk_options(model, image_size=config.data.image_size, patch_size=model.patch_size)
    return BEiTClassifier(num_classes=num_classes, pooling=model.pooling, head_scale=model.head_scale,
                          recompute=config.train.recompute, **options)


def load_trunk(model: BEiTClassifier, config: FinetuneConfig | LinearProbeConfig) -> None:
    """Put a pretrained trunk into the classifier; CheckpointError names a checkpoint of another kind or size.

    A fine-tuned model may be given too (ImageNet-22k before 1k, 224 px before 384): its final norm is kept, and
    its head where it has the same number of classes.  Source: official run_class_finetuning.py.
    """
    source = config.pretrained
    found = read_checkpoint(str(source.weights), sha256=source.sha256, wanted=("pretraining", "classifier"))
    grid = found.grid or grid_of(source.image_size, config.model.patch_size)
    if found.config:
        kind = found.config.get("kind")
        settings = parse_config(found.config, source=str(found.path))
        if not isinstance(settings, (PretrainConfig, FinetuneConfig)):
            raise CheckpointError(f"{found.path}: this is a {kind!r} run; fine-tuning starts from a pretraining run "
                                  "(or another fine-tuned one). Give that as pretrained.weights.")
        grid = settings.grid
    weights = found.weights
    drop: tuple[str, ...] = PRETRAINING_ONLY
    if "head.weight" in weights:  # another fine-tuned model: its norm is kept, its head where the classes are as many
        drop = ()
        if int(weights["head.bias"].shape[0]) != model.num_classes:
            drop = ("head.",)
    fresh = transfer_trunk(model, weights, str(found.path), source_grid=grid, drop=drop)
    log.info("%s: trunk loaded; new: %s", found.path, ", ".join(fresh))


def load_classifier(run: str) -> tuple[BEiTClassifier, FinetuneConfig, list[str]]:
    """The classifier of a fine-tuning run, in eval mode, with its settings and class names."""
    config = read_config(run)
    if not isinstance(config, FinetuneConfig):
        kind = getattr(config, "kind", "lone weights file")
        raise CheckpointError(f"{run}: this is a {kind!r}; a run of `beitv2 finetune` was expected.")
    found = read_checkpoint(run)
    model = build_classifier(config, int(found.weights["head.bias"].shape[0]))
    set_weights(model, found.weights, str(found.path))
    model.eval()
    names = Path(run) / CLASSES_FILE
    classes = json.loads(names.read_text()) if names.is_file() else [str(i) for i in range(model.num_classes)]
    return model, config, classes


def load_backbone(run: str) -> tuple[Any, Any]:
    """The frozen trunk of a pretraining or fine-tuning run and its picture size; CheckpointError for another kind."""
    config = read_config(run)
    if isinstance(config, FinetuneConfig):
        return load_classifier(run)[0], config.data.image_size
    if isinstance(config, PretrainConfig):
        return load_mim(run)[0], config.data.image_size
    kind = getattr(config, "kind", "lone weights file")
    raise CheckpointError(f"{run}: this is a {kind!r}; a run of `beitv2 pretrain` or `beitv2 finetune` was expected.")
