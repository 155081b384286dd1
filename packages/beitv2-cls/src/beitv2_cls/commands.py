"""The commands this package adds to `beitv2`; importing them costs no Paddle."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Optional

import typer

from beitv2_core.commands import options
from beitv2_core.commands.train import OUTPUT, RESUME
from beitv2_core.config import load_config
from beitv2_core.errors import DataError


def register(app: typer.Typer) -> None:
    """Put the commands on `app` (entry point `beitv2.commands`)."""
    for function in (finetune, evaluate, compare):
        app.command()(function)


def finetune(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    resume: str = RESUME,
    output: Optional[Path] = OUTPUT,
) -> None:
    """Fine-tune a pretrained backbone as a classifier (stage 3)."""
    from beitv2_cls.build import build_finetuning
    from beitv2_cls.config import FinetuneConfig

    settings, _ = load_config(config, options.all_overrides(set_, more, output), FinetuneConfig)
    summary = build_finetuning(settings).run(resume=None if resume == "never" else resume)
    for name, value in summary.get("final", {}).items():
        typer.echo(f"{name:<12}{value:.4f}")


def evaluate(
    run: str = typer.Argument(..., help="run folder of `beitv2 finetune`, or one of its checkpoints",
                              show_default=False),
    data: Optional[str] = typer.Option(None, help="folder of class folders, or digit_scenes; default: the validation "
                                                  "pictures of the run"),
    list_file: Optional[Path] = typer.Option(None, help="text file with `path label` lines, below --data"),
    subset: Optional[Path] = typer.Option(None, help="text file naming the classes that may be predicted, one a line"),
    batch_size: int = typer.Option(64, "--batch-size", "-b", min=1, help="does not change the result"),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="folder for CSV and JSON; default: the run's"),
) -> None:
    """Measure a classifier: top-1, top-5, loss; accuracy of every class as CSV."""
    from beitv2_cls.build import load_classifier
    from beitv2_cls.evaluate import evaluate as measure
    from beitv2_core.engine import distributed

    distributed.init()
    model, config, classes = load_classifier(run)
    pictures = _pictures(config, data, list_file, classes)
    chosen = _subset(subset, classes)
    found = measure(model, pictures, config.data.image_size, crop_share=config.validation.crop_share,
                    batch_size=batch_size, subset=chosen)
    if not distributed.is_main():
        return
    folder = output or Path(run)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "pictures", "top1"])
        for name, total, value in zip(classes, found.confusion.sum(1), found.per_class()):
            writer.writerow([name, int(total), f"{value:.6f}"])
    values = {"top1": found.top1, "top5": found.top5, "loss": found.loss, "pictures": found.pictures}
    (folder / "evaluation.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"top-1 {100 * found.top1:.2f} %   top-5 {100 * found.top5:.2f} %   loss {found.loss:.4f}   "
               f"{found.pictures} pictures")
    typer.echo(f"written: {folder / 'per_class.csv'}")


def compare(
    config: Path = options.CONFIG,
    pretrained: str = typer.Option(..., help="pretraining run the one side starts from", show_default=False),
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    seeds: int = typer.Option(3, min=1, help="runs of each kind"),
    few_labels: int = typer.Option(400, min=20, help="labelled pictures of the second comparison"),
    few_steps: int = typer.Option(400, min=1, help="steps of the runs with few labels"),
    probe_pictures: int = typer.Option(3000, min=16, help="training pictures of linear probe and kNN"),
    output: Path = typer.Option(..., "--output", "-o", help="folder of the runs, the table and the picture"),
) -> None:
    """Fine-tune from a pretrained backbone and from scratch in equal steps, with all and with few labels."""
    from beitv2_cls.compare import draw, fine_tune_all, frozen_features, rows_of

    settings = options.all_overrides(set_, more)
    table = fine_tune_all(config, pretrained, output, seeds=seeds, few_labels=few_labels, few_steps=few_steps,
                          settings=settings)
    frozen = frozen_features(pretrained, train_pictures=probe_pictures, test_pictures=1000)
    figure = output / "figures" / "compare.png"
    draw(table, figure)
    (output / "summary.json").write_text(json.dumps({"top1": table, "frozen": frozen}, indent=1) + "\n",
                                         encoding="utf-8")
    typer.echo(f"top-1 on 1000 test pictures, mean and spread of {seeds} seed(s)")
    for row in rows_of(table, frozen):
        typer.echo(f"{row[0]:<26}{row[1]:>16}   {row[2]:<24}{row[3]:>7} points")
    typer.echo(f"written: {output / 'summary.json'}")
    typer.echo(f"written: {figure}")


def _pictures(config: Any, data: Optional[str], list_file: Optional[Path], classes: list[str]) -> Any:
    from beitv2_cls.build import build_data
    from beitv2_core.data import DigitScenes, ImageFolder

    if data is None:
        validation = build_data(config)[1]
        if validation is None:
            raise DataError(f"{config.output}: the run has no validation pictures. Give --data FOLDER.")
        return validation
    if data == "digit_scenes":
        return DigitScenes("test", size=config.validation.size, image_size=config.data.image_size)
    pictures = ImageFolder(data, list_file=list_file, with_classes=True)
    unknown = sorted(set(pictures.classes or []) - set(classes))
    if unknown and list_file is None:
        raise DataError(f"{data}: {len(unknown)} classes the model does not know ({', '.join(unknown[:5])}). "
                        f"It knows {len(classes)} ({', '.join(classes[:5])}, ...).")
    if list_file is None and pictures.labels is not None:
        number = {name: i for i, name in enumerate(classes)}
        import numpy as np

        pictures.labels = np.asarray([number[(pictures.classes or [])[i]] for i in pictures.labels], dtype=np.int64)
        pictures.classes = classes
    return pictures


def _subset(path: Optional[Path], classes: list[str]) -> Optional[list[int]]:
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"--subset {path}: cannot be read: {error}. Give a text file with one class a line.") from None
    unknown = [name for name in names if name not in classes]
    if unknown or not names:
        raise DataError(f"--subset {path}: {len(unknown)} of {len(names)} names are no class of the model "
                        f"({', '.join(unknown[:5])}). One class name (synset) a line is expected.")
    return [classes.index(name) for name in names]
