# SPDX-License-Identifier: Apache-2.0
"""The commands this package adds to `beitv2`; importing them costs no Paddle."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any, Optional

import typer

from beitv2_core.commands import options
from beitv2_core.commands.train import DRY_RUN, OUTPUT, RESUME
from beitv2_core.errors import ConfigError
from beitv2_core.files.atomic import write_text_atomically


def register(app: typer.Typer) -> None:
    """Put the commands on `app` (entry point `beitv2.commands`)."""
    for function in (finetune, linear_probe, evaluate, knn, predict, compare):
        app.command(function.__name__.replace("_", "-"))(function)


def finetune(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    resume: str = RESUME,
    output: Optional[Path] = OUTPUT,
    dry_run: bool = DRY_RUN,
    verify_every: Optional[int] = options.VERIFY_EVERY,
) -> None:
    """Fine-tune a pretrained backbone as a classifier (stage 3)."""
    from beitv2_cls import api

    changes = [*options.all_overrides(set_, more, output), *options.verified(verify_every)]
    done = api.finetune(config, set=changes, resume=resume, dry_run=dry_run)
    if isinstance(done, api.TrainedRun):
        for name, value in done.final.items():
            typer.echo(f"{name:<12}{value:.4f}")
    else:
        _show_dry_run(done)


def linear_probe(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    resume: str = RESUME,
    output: Optional[Path] = OUTPUT,
    dry_run: bool = DRY_RUN,
    verify_every: Optional[int] = options.VERIFY_EVERY,
) -> None:
    """Train linear classifiers on a frozen backbone: every block, feature and learning rate in one pass."""
    from beitv2_cls import api
    from beitv2_cls.assembly import PROBE_TABLE, build_linear_probe, linear_probe_parts
    from beitv2_cls.config import LinearProbeConfig
    from beitv2_core.config import load_config
    from beitv2_core.engine import distributed

    changes = [*options.all_overrides(set_, more, output), *options.verified(verify_every)]
    settings = load_config(config, changes, LinearProbeConfig)
    done = api.train(settings, build_linear_probe, resume=resume, dry_run=dry_run, parts=linear_probe_parts)
    if dry_run:
        _show_dry_run(done)
    if dry_run or not done.final or not distributed.is_main():
        return
    final = done.final
    table = Path(settings.output) / PROBE_TABLE
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            typer.echo("".join(f"{cell:>12}" for cell in row))
    typer.echo(f"best: top-1 {100 * final['top1']:.2f} %, block {final['layer']}, {final['feature']}, "
               f"learning rate {final['lr']:g}")
    typer.echo(f"written: {table}")
    typer.echo(f"written: {Path(settings.output) / 'figures' / 'linear_probe.png'}")


def _show_dry_run(measured: Any) -> None:
    for line in measured.lines():
        typer.echo(line)


def knn(
    run: str = typer.Argument(..., help="run folder of `beitv2 pretrain` or `beitv2 finetune`, a checkpoint, or a file "
                                        "of weights", show_default=False),
    data: str = typer.Option(..., help="labelled training images: folder of class folders, tar files, or "
                                       "digit_scenes", show_default=False),
    test: Optional[str] = typer.Option(None, help="test images of the same classes; default with digit_scenes: its "
                                                  "test split"),
    list_file: Optional[Path] = typer.Option(None, help="text file with `path label` lines, below --data"),
    test_list_file: Optional[Path] = typer.Option(None, help="text file with `path label` lines, below --test"),
    feature: str = typer.Option("mean", help="mean (of the patch tokens), cls (class token) or concat"),
    neighbours: list[int] = typer.Option([10, 20, 100], "-k", min=1, help="neighbours that vote"),
    temperature: float = typer.Option(0.07, min=1e-6, help="a neighbour's vote is exp(cosine / temperature)"),
    crop_share: float = typer.Option(0.875, min=0.1, max=1.0, help="share of the short side that the crop keeps"),
    train_size: int = typer.Option(3000, min=1, help="training images of digit_scenes"),
    test_size: int = typer.Option(1000, min=1, help="test images of digit_scenes"),
    random: bool = typer.Option(False, "--random", help="also measure a backbone with random weights, as a "
                                                        "baseline"),
    max_pixels: Optional[int] = options.MAX_PIXELS,
    num_workers: Optional[int] = options.WORKERS,
) -> None:
    """Classify test images by the nearest neighbours of their frozen features (weighted kNN)."""
    from beitv2_cls.assembly import load_backbone, untrained
    from beitv2_cls.data import neighbour_sets
    from beitv2_cls.knn import knn_accuracy
    from beitv2_core.assembly.held_out import allow_pixels
    from beitv2_core.data import eval_batches
    from beitv2_core.evaluation.evaluate import pooled_features

    if feature not in ("mean", "cls", "concat"):
        raise ConfigError(f"--feature {feature}: expected mean, cls or concat.")
    backbone = load_backbone(run)
    size = backbone.model.image_size
    sets = neighbour_sets(backbone.config, data, test, list_file, test_list_file, image_size=size,
                          sizes=(train_size, test_size))
    allow_pixels(sets, max_pixels)
    backbones = {"": backbone.model, **({"random weights": untrained(backbone)} if random else {})}
    found = {}
    for name, model in backbones.items():
        train, measured = (pooled_features(model, eval_batches(images, size, crop_share=crop_share,
                                                               num_workers=options.workers(num_workers)), feature)
                           for images in sets)
        found[name] = knn_accuracy(train, measured, neighbours=neighbours, temperature=temperature)
    typer.echo(f"{len(sets[0])} images vote on {len(sets[1])}, {feature} feature of {train[0].shape[1]} channels")
    for k, value in found[""].items():
        beside = "".join(f"   {name} {100 * other[k]:6.2f} %" for name, other in found.items() if name)
        typer.echo(f"k = {k:<6}{100 * value:6.2f} %{beside}")


def predict(
    run: str = typer.Argument(..., help="run folder of `beitv2 finetune`, one of its checkpoints, a file of weights, "
                                        "or an exported classifier", show_default=False),
    images: list[Path] = typer.Argument(..., help="images, folders of images, or lists of them (.txt, .csv)",
                                        show_default=False),
    top: int = typer.Option(5, min=1, help="classes to show for each image"),
    as_json: bool = typer.Option(False, "--json", help="one JSON object a line, in UTF-8, instead of a table"),
    batch_size: int = options.BATCH,
    num_workers: Optional[int] = options.WORKERS,
    max_pixels: Optional[int] = options.MAX_PIXELS,
    runtime: Optional[str] = options.RUNTIME,
    precision: str = options.PRECISION,
) -> None:
    """Print the likeliest classes of images with their probabilities."""
    from beitv2_cls import api
    from beitv2_cls.classes import printable

    for path, found in api.predictions(run, images, top=top, batch_size=batch_size, num_workers=num_workers,
                                       max_pixels=max_pixels, runtime=runtime, precision=precision):
        if as_json:
            line = {"path": path, "classes": [{"name": printable(name), "probability": round(share, 6)}
                                              for name, share in found]}
            typer.echo(utf8_json(line))
        else:
            typer.echo(shown(path))
            for name, share in found:
                typer.echo(f"  {100 * share:6.2f} %  {shown(printable(name))}")


def evaluate(
    run: str = typer.Argument(..., help="run folder of `beitv2 finetune`, one of its checkpoints, a file of weights, "
                                        "or an exported classifier", show_default=False),
    data: Optional[str] = typer.Option(None, help="folder of class folders, tar files, or digit_scenes; default: the "
                                                  "validation images of the run"),
    list_file: Optional[Path] = typer.Option(None, help="text file with `path label` lines, below --data; labels are "
                                                        "the model's class names or their numbers"),
    subset: Optional[Path] = typer.Option(None, help="text file naming the classes that may be predicted, one a line"),
    batch_size: int = typer.Option(64, "--batch-size", "-b", min=1,
                                   help="images per batch; does not change the result"),
    num_workers: Optional[int] = options.WORKERS,
    max_pixels: Optional[int] = options.MAX_PIXELS,
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="folder for CSV and JSON; default: the run's"),
    runtime: Optional[str] = options.RUNTIME,
    precision: str = options.PRECISION,
) -> None:
    """Measure a classifier: top-1, top-5, loss; accuracy of each class (CSV), confusion matrix (PNG)."""
    from beitv2_cls import api

    found = api.evaluate(run, data=data, list_file=list_file, subset=subset, batch_size=batch_size,
                         num_workers=num_workers, max_pixels=max_pixels, out=output, runtime=runtime,
                         precision=precision)
    if found.files:
        table, _, image = found.files
        typer.echo(f"top-1 {100 * found.top1:.2f} %   top-5 {100 * found.top5:.2f} %   loss {found.loss:.4f}   "
                   f"{found.images} images")
        typer.echo(f"written: {table}")
        typer.echo(f"written: {image}")


def compare(
    config: Path = options.CONFIG,
    pretrained: str = typer.Option(..., help="pretraining run to start from", show_default=False),
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    seeds: int = typer.Option(3, min=1, help="runs of each kind, with different seeds"),
    few_labels: int = typer.Option(400, min=0, help="labelled images of the second comparison, evenly over the "
                                                     "classes; 0: leave it out"),
    few_steps: int = typer.Option(300, min=1, help="steps of the runs with few labels"),
    probe_images: int = typer.Option(3000, min=16, help="training images of linear probe and kNN"),
    output: Path = typer.Option(..., "--output", "-o", help="folder of the runs, the table and the figure"),
    num_workers: Optional[int] = options.WORKERS,
) -> None:
    """Compare fine-tuning from a pretrained backbone with training from scratch, with all and with few labels.

    Everything is measured on the validation images of the settings (validation.root; digit_scenes: its own).
    """
    from beitv2_cls.compare import draw, find_sets, fine_tune_all, frozen_features, rows_of

    settings = options.all_overrides(set_, more)
    sets = find_sets(config, settings, pretrained, output, few_labels=few_labels, few_steps=few_steps)
    table = fine_tune_all(sets, config, pretrained, output, seeds=seeds, few_labels=few_labels, few_steps=few_steps,
                          settings=settings)
    frozen = frozen_features(sets, pretrained, train_images=probe_images, test_images=1000,
                             num_workers=options.workers(num_workers))
    figure = output / "figures" / "compare.png"
    draw(table, figure)
    write_text_atomically(output / "summary.json", json.dumps({"top1": table, "frozen": frozen}, indent=1) + "\n")
    tried = f"mean and spread of {seeds} seeds" if seeds > 1 else "one seed"
    typer.echo(f"top-1 on {len(sets.test)} test images, {tried}")
    for row in rows_of(table, frozen):
        typer.echo(f"{row[0]:<26}{row[1]:>16}   {row[2]:<24}{row[3]:>7} points")
    typer.echo(f"written: {output / 'summary.json'}")
    typer.echo(f"written: {figure}")
    typer.echo(f"runs: one folder per training, below {output}")


def shown(text: str) -> str:
    """A text as the standard output can take it: what its encoding lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def utf8_json(value: Any) -> bytes:
    """One line of JSON in UTF-8, whatever the terminal's encoding; bytes of a path that are no text as \\udc80 to
    \\udcff, which `json.loads` and `os.fsencode` turn back into the path."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8")
