# SPDX-License-Identifier: Apache-2.0
"""The gain by pretraining: the same fine-tuning from a pretrained backbone and from scratch, several seeds each."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beitv2_cls.assembly import load_backbone, untrained
from beitv2_cls.config import FinetuneConfig
from beitv2_cls.data import even_shares, refuse_shared, training_set, validation_set
from beitv2_cls.knn import knn_accuracy
from beitv2_core.assembly import build_dataset
from beitv2_core.assembly.batches import plan_batches
from beitv2_core.commands.trials import run_side_by_side, run_trial
from beitv2_core.config import load_config
from beitv2_core.data import eval_batches
from beitv2_core.data.sources.sample import spread
from beitv2_core.datasets import SOURCES
from beitv2_core.errors import ConfigError
from beitv2_core.evaluation.evaluate import linear_probe, pooled_features
from beitv2_core.files.atomic import write_text_atomically
from beitv2_core.yaml_text import parse_yaml

log = logging.getLogger("beitv2_cls")
STARTS = ("pretrained", "scratch")


class Trial(NamedTuple):
    """One fine-tuning run: a start, a number of labels (None: all), a seed."""

    start: str
    labels: int | None
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        return f"{self.start}_{self.labels or 'all'}_seed{self.seed}"


class Sets(NamedTuple):
    """Settings of the comparison, the labelled images it trains on and those it is measured on."""

    config: FinetuneConfig
    train: Any
    test: Any


def find_sets(config: Path, settings: Sequence[str], pretrained: str, folder: Path, *, few_labels: int,
              few_steps: int) -> Sets:
    """The settings and data of a comparison, checked before anything is trained.

    Raises ConfigError without test images and for a number of few labels that the data cannot give or the batch and
    the warm-up of the settings cannot be trained with, DataError where training and test images are the same.
    """
    found = load_config(config, [*settings, f"pretrained.weights={pretrained!r}", f"output={str(folder)!r}"],
                        FinetuneConfig)
    source = SOURCES[found.data.dataset]
    train = training_set(found)
    test = validation_set(found, train.classes)
    if test is None:
        raise ConfigError("validation.root: a comparison is measured on test images. Set it to a folder of class "
                          "folders that are not trained on (validation.root=FOLDER).")
    refuse_shared(train, test, "data.root and validation.root: a comparison is measured on images not trained on")
    if few_labels and not {"size", "list_file"} & set(source.reads):
        raise ConfigError(f"--few-labels {few_labels}: no part of {source.noun} can be chosen. Give --few-labels 0 to "
                          "leave this comparison out, or a folder of class folders.")
    if few_labels and not len(train.classes) <= few_labels < len(train):
        raise ConfigError(f"--few-labels {few_labels}: {train!r}; expected {len(train.classes)} (one of each class) to "
                          f"{len(train) - 1}, or 0 to leave this comparison out.")
    if few_labels:
        optim = found.optim.model_copy(update={"steps": few_steps, "epochs": None})
        try:
            plan_batches(optim, found.train, few_labels, 1)
        except ConfigError as error:
            raise ConfigError(f"--few-labels {few_labels}, --few-steps {few_steps}: {error} --few-labels 0 leaves "
                              "these runs out.") from None
    return Sets(found, train, test)


def fine_tune_all(sets: Sets, config: Path, pretrained: str, folder: Path, *, seeds: int, few_labels: int,
                  few_steps: int, settings: Sequence[str] = ()) -> dict[str, dict[str, list[float]]]:
    """Top-1 of every trial: {labels: {start: one value a seed}}; finished runs are not repeated, broken ones continue.

    As many runs at once as there are processor cores, one thread each: small models gain little from more threads.
    few_labels: images of the runs with few labels, as many of each class as there are, drawn by the seed and listed in
    `few_labels_N_seedS.txt` (drawn ones: the first); 0: no such runs.
    Raises BEiTError with the last lines of a run that fails.
    """
    trials = [Trial(start, labels, seed) for labels in (None, few_labels or None)[:2 if few_labels else 1]
              for seed in range(seeds) for start in STARTS]
    # From scratch too, the trunk is the pretrained one's.
    trunk = [f"model.{name}={json.dumps(value)}" for name, value in sets.config.model.model_dump(mode="json").items()]
    runs = {}
    for trial in trials:
        weights = repr(pretrained) if trial.start == "pretrained" else "null"
        changes = [*settings, f"output={str(folder / trial.name)!r}", f"pretrained.weights={weights}",
                   f"seed={trial.seed}", *trunk]
        if trial.labels is not None:
            changes += [f"optim.steps={few_steps}", "optim.epochs=null", *_few(sets, folder, trial.labels, trial.seed)]
        runs[trial.name] = partial(_run, config, changes, folder / trial.name)
    found = run_side_by_side(runs, folder)
    table: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        table.setdefault(str(trial.labels or "all"), {}).setdefault(trial.start, []).append(found[trial.name])
    return table


def _few(sets: Sets, folder: Path, count: int, seed: int) -> list[str]:
    """The settings of a run with few labels."""
    if "size" in SOURCES[sets.config.data.dataset].reads:
        return [f"data.size={count}"]
    path = folder / f"few_labels_{count}_seed{seed}.txt"
    lines = [f"{sets.train.paths[number]}\t{sets.train.classes[sets.train.labels[number]]}\n"
             for number in draw_few(sets.train.labels, len(sets.train.classes), count, seed)]
    write_text_atomically(path, "".join(lines))
    return [f"data.list_file={str(path.resolve())!r}"]


def draw_few(labels: np.ndarray, classes: int, count: int, seed: int) -> list[int]:
    """Numbers of `count` images drawn by `seed`, sorted; no class is more than one ahead of one with images left."""
    draws, labels = np.random.default_rng(seed), np.asarray(labels)
    order = draws.permutation(classes)  # who gets one more where the classes do not divide the count
    shares = even_shares(np.bincount(labels, minlength=classes)[order], count)
    chosen = [draws.choice(np.flatnonzero(labels == number), share, replace=False)
              for number, share in zip(order, shares) if share]
    return sorted(int(number) for part in chosen for number in part)


def _run(config: Path, changes: Sequence[str], output: Path) -> float:
    if not _finished(config, changes, output):
        run_trial(["finetune", str(config), "--set", *changes], output)
    top1 = float(json.loads((output / "summary.json").read_text(encoding="utf-8"))["final"]["val_acc1"])
    log.info("%s: top-1 %.1f %%", output.name, 100 * top1)
    return top1


def _finished(config: Path, changes: Sequence[str], output: Path) -> bool:
    """Whether the run of these settings is complete; a run of other settings is refused when it is resumed.

    The folder does not count: a finished run can be brought from another comparison, or with all of this one.
    """
    if not (output / "summary.json").is_file() or not (output / "config.yml").is_file():
        return False
    saved = parse_yaml((output / "config.yml").read_text(encoding="utf-8"))
    wanted = load_config(config, changes, FinetuneConfig).resolved()
    return {**saved, "output": None} == {**wanted, "output": None}


def frozen_features(sets: Sets, pretrained: str, *, train_images: int, test_images: int,
                    num_workers: int = 0) -> dict[str, dict[str, float]]:
    """Linear probe and kNN of the pretrained trunk's mean patch feature and a random one's: {start: {what: top-1}}."""
    backbone = load_backbone(pretrained)
    train, test = sets.train, sets.test
    if SOURCES[sets.config.data.dataset].split:  # drawn: any part is as good as another
        train = build_dataset(sets.config.data, split="train", size=train_images)
        test = build_dataset(sets.config.data, split="test", size=test_images)
    parts, crop_share = (spread(train, train_images), spread(test, test_images)), sets.config.validation.crop_share
    result = {}
    for name, model in (("pretrained", backbone.model), ("random", untrained(backbone))):
        log.info("compare: linear probe and kNN of %s weights, %d training and %d test images", name, *map(len, parts))
        features = [pooled_features(model, eval_batches(part, model.image_size, crop_share=crop_share,
                                                       num_workers=num_workers))
                    for part in parts]
        knn = {f"kNN, k = {k}": value for k, value in knn_accuracy(features[0], features[1]).items()}
        result[name] = {"linear probe": linear_probe(features[0], features[1]), **knn}
    return result


def rows_of(table: dict[str, dict[str, list[float]]], frozen: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """(what, pretrained, compared with, gain in points) as text; one seed has no spread."""

    def mean_and_spread(values: list[float]) -> str:
        spread = f" +- {100 * float(np.std(values)):.1f}" if len(values) > 1 else ""
        return f"{100 * float(np.mean(values)):.1f}{spread} %"

    rows: list[tuple[str, ...]] = []
    for labels, starts in table.items():
        gain = 100 * float(np.mean(starts["pretrained"]) - np.mean(starts["scratch"]))
        rows.append((f"fine-tuned, {labels} labels", mean_and_spread(starts["pretrained"]),
                     f"scratch {mean_and_spread(starts['scratch'])}", f"{gain:+.1f}"))
    for what, value in frozen["pretrained"].items():
        other = frozen["random"][what]
        rows.append((what, f"{100 * value:.1f} %", f"random {100 * other:.1f} %", f"{100 * (value - other):+.1f}"))
    return rows


def draw(table: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Bars of the mean top-1 with every seed as a dot, as a PNG."""
    from beitv2_core.viz.canvas import Canvas

    with Canvas(path, 6, 3.6) as figure:
        axes = figure.add_subplot()
        for offset, (start, colour) in enumerate(zip(STARTS, ("#2a6f97", "#c8c8c8"))):
            places = np.arange(len(table)) + (offset - 0.5) * 0.36
            means = [100 * np.mean(starts[start]) for starts in table.values()]
            bars = axes.bar(places, means, 0.34, label=start, color=colour)
            axes.bar_label(bars, fmt="%.1f", padding=2)
            for place, starts in zip(places, table.values()):
                axes.plot([place] * len(starts[start]), [100 * value for value in starts[start]], "k.", markersize=4)
        axes.set_xticks(range(len(table)), [f"{labels} labels" for labels in table])
        axes.set_ylabel("top-1 on test images, %")
        axes.set_ylim(0, 100)
        axes.legend()
