"""What pretraining was worth: the same fine-tuning from a pretrained backbone and from scratch, several seeds each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beitv2_cls.knn import knn_accuracy
from beitv2_core import runtime
from beitv2_core.assembly import build_dataset, build_mim, load_mim, seed_everything
from beitv2_core.commands.trials import run_trial
from beitv2_core.evaluate import eval_batches, linear_probe, pooled_features

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


def fine_tune_all(config: Path, pretrained: str, folder: Path, *, seeds: int, few_labels: int, few_steps: int,
                  settings: Sequence[str] = ()) -> dict[str, dict[str, list[float]]]:
    """Top-1 of every trial: {labels: {start: one value a seed}}; finished runs are not repeated, broken ones continue.

    As many runs at once as there are processor cores, one thread each: small models gain little from more threads.
    Raises BEiTError with the last lines of a run that fails.
    """
    trials = [Trial(start, labels, seed) for labels in (None, few_labels) for seed in range(seeds) for start in STARTS]
    with ThreadPoolExecutor(runtime.physical_cores()) as pool:
        found = list(pool.map(lambda trial: _run(trial, config, pretrained, folder, few_steps, settings), trials))
    table: dict[str, dict[str, list[float]]] = {}
    for trial, value in zip(trials, found):
        table.setdefault(str(trial.labels or "all"), {}).setdefault(trial.start, []).append(value)
    return table


def _run(trial: Trial, config: Path, pretrained: str, folder: Path, few_steps: int, settings: Sequence[str]) -> float:
    output = folder / trial.name
    weights = pretrained if trial.start == "pretrained" else "null"
    arguments = ["finetune", str(config), "--set", f"output={output}", f"pretrained.weights={weights}",
                 f"seed={trial.seed}", *settings]
    if trial.labels is not None:
        arguments += [f"data.size={trial.labels}", f"optim.steps={few_steps}"]
    if not (output / "summary.json").is_file():
        run_trial(arguments, output)
    value = json.loads((output / "summary.json").read_text())["final"]["val_acc1"]
    log.info("%s: top-1 %.1f %%", trial.name, 100 * value)
    return float(value)


def frozen_features(pretrained: str, *, train_pictures: int, test_pictures: int) -> dict[str, dict[str, float]]:
    """Linear probe and kNN of the pretrained trunk's mean patch feature and a random one's: {start: {what: top-1}}."""
    student, config = load_mim(pretrained)
    seed_everything(config.seed)
    untrained = build_mim(config.model, image_size=config.data.image_size, num_codes=student.num_codes)
    untrained.eval()
    sets = (build_dataset(config.data, split="train", size=train_pictures, with_classes=True),
            build_dataset(config.data, split="test", size=test_pictures, with_classes=True))

    def batches(dataset: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return eval_batches(dataset, config.data.image_size)

    result = {}
    for name, backbone in (("pretrained", student), ("random", untrained)):
        train, test = (pooled_features(backbone, batches(dataset)) for dataset in sets)
        knn = {f"kNN, k = {k}": value for k, value in knn_accuracy(train, test).items()}
        result[name] = {"linear probe": linear_probe(train, test), **knn}
    return result


def rows_of(table: dict[str, dict[str, list[float]]], frozen: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """(what, pretrained, compared with, gain in points) as text."""
    rows: list[tuple[str, ...]] = []
    for labels, starts in table.items():
        means = {start: 100 * float(np.mean(values)) for start, values in starts.items()}
        spread = {start: 100 * float(np.std(values)) for start, values in starts.items()}
        rows.append((f"fine-tuned, {labels} labels", f"{means['pretrained']:.1f} +- {spread['pretrained']:.1f} %",
                     f"scratch {means['scratch']:.1f} +- {spread['scratch']:.1f} %",
                     f"{means['pretrained'] - means['scratch']:+.1f}"))
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
        axes.set_ylabel("top-1 on test pictures, %")
        axes.set_ylim(0, 100)
        axes.legend()
