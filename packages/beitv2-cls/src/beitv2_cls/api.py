# SPDX-License-Identifier: Apache-2.0
"""The functions behind the commands, for Python: `finetune`, `predict` and `evaluate`. Importing it costs no Paddle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional, Union, overload

import numpy as np

from beitv2_core.api.arguments import Changes, Paths, live_model, overrides_of, paths_of, run_folder_of, workers
from beitv2_core.api.train import Config, TrainedRun, settings_from, train
from beitv2_core.engine.progress import showing
from beitv2_core.errors import ConfigError, DataError
from beitv2_core.exported_model import is_exported, load_exported

if TYPE_CHECKING:
    from beitv2_cls.prediction import Prediction
    from beitv2_core.assembly.dry_run import DryRun


class Evaluation(NamedTuple):
    """A classifier on labelled images.

    top1 and top5 are shares, loss the mean, of so many images.  classes: names by number.  per_class: top-1 (classes,),
    NaN without images; confusion: int64 (classes, classes), rows are labels.  files: written in folder; none in
    processes other than the first.
    """

    top1: float
    top5: float
    loss: float
    images: int
    classes: list[str]
    per_class: np.ndarray
    confusion: np.ndarray
    folder: Path
    files: list[Path]


@overload
def finetune(config: Config, out: Union[str, Path, None] = ..., *, set: Changes = ...,
             resume: Union[str, Path] = ..., dry_run: Literal[False] = ..., progress: Optional[bool] = ...,
             ) -> TrainedRun: ...


@overload
def finetune(config: Config, out: Union[str, Path, None] = ..., *, set: Changes = ...,
             resume: Union[str, Path] = ..., dry_run: Literal[True], progress: Optional[bool] = ...,
             ) -> DryRun: ...


@overload
def finetune(config: Config, out: Union[str, Path, None] = ..., *, set: Changes = ...,
             resume: Union[str, Path] = ..., dry_run: bool, progress: Optional[bool] = ...,
             ) -> Union[TrainedRun, DryRun]: ...


def finetune(config: Config, out: Union[str, Path, None] = None, *, set: Changes = (),
             resume: Union[str, Path] = "auto", dry_run: bool = False,
             progress: Optional[bool] = None) -> Union[TrainedRun, DryRun]:
    """Fine-tune a pretrained backbone as a classifier (stage 3).

    Arguments, signals and errors are those of `beitv2_core.pretrain`, of a YAML file of kind `finetune`; `final` of the
    result has the accuracy on the validation images.
    """
    from beitv2_cls.config import FinetuneConfig

    settings = settings_from(config, overrides_of(set, out), FinetuneConfig)
    from beitv2_cls.assembly import build_finetuning, finetuning_parts

    return train(settings, build_finetuning, resume=resume, dry_run=dry_run, parts=finetuning_parts, progress=progress)


def predict(run: Union[str, Path], images: Paths, *, top: int = 5, batch_size: int = 16,
            num_workers: Optional[int] = None, max_pixels: Optional[int] = None, runtime: Optional[str] = None,
            precision: str = "f32") -> list[Prediction]:
    """The likeliest classes of images with their probabilities: (path, [(name, probability), ...]), likeliest first.

    run: run folder of `finetune`, one of its checkpoints, a file of weights, or an exported classifier.  images:
    images, folders of images, or lists of them (.txt, .csv).  top: classes for each image.  batch_size, num_workers,
    max_pixels, runtime, precision: as for `beitv2_core.tokenize`.
    Raises ConfigError, DataError, CheckpointError, ExportError.
    """
    return list(predictions(run, images, top=top, batch_size=batch_size, num_workers=num_workers,
                            max_pixels=max_pixels, runtime=runtime, precision=precision))


def predictions(run: Union[str, Path], images: Paths, *, top: int, batch_size: int, num_workers: Optional[int],
                max_pixels: Optional[int], runtime: Optional[str], precision: str) -> Iterator[Prediction]:
    """`predict`, one image after the other."""
    from beitv2_cls.prediction import predict as likeliest
    from beitv2_cls.prediction import predict_exported
    from beitv2_core.evaluation.codes import list_images

    paths = list_images(paths_of(images))
    if is_exported(run):
        exported = load_exported(run, kind="classifier", runtime=runtime, precision=precision)
        yield from predict_exported(exported, paths, top=top, batch_size=batch_size, num_workers=workers(num_workers),
                                    max_pixels=max_pixels)
        return
    computing = live_model(run, runtime=runtime, precision=precision)
    from beitv2_cls.assembly import crop_share_of, load_classifier
    from beitv2_core.assembly.held_out import reading_of_run

    model, _, classes = load_classifier(str(run))
    with computing:
        yield from likeliest(model, paths, model.image_size, classes, top=top, batch_size=batch_size,
                             crop_share=crop_share_of(model, str(run)), num_workers=workers(num_workers),
                             reading=reading_of_run(str(run), max_pixels=max_pixels))


def evaluate(run: Union[str, Path], *, data: Optional[str] = None, list_file: Union[str, Path, None] = None,
             subset: Union[str, Path, None] = None, batch_size: int = 64, num_workers: Optional[int] = None,
             max_pixels: Optional[int] = None, out: Union[str, Path, None] = None, runtime: Optional[str] = None,
             precision: str = "f32", progress: Optional[bool] = None) -> Evaluation:
    """Measure a classifier: top-1, top-5, loss; write per_class.csv, evaluation.json and figures/confusion.png.

    run: as for `predict`.  data: folder of class folders, tar files, or "digit_scenes"; default: the validation images
    of the run.  list_file: text file with `path label` lines, below data; labels are the model's class names or their
    numbers.  subset: text file naming the classes that may be predicted, one a line.  out: folder for the files;
    default: the run's.  batch_size, num_workers, max_pixels, runtime, precision, progress: as for
    `beitv2_core.tokenize`.
    Raises ConfigError, DataError, CheckpointError, ExportError.
    """
    from beitv2_cls.accuracy import draw_confusion, write_results
    from beitv2_cls.accuracy import evaluate as measure
    from beitv2_cls.assembly import crop_share_of, load_classifier
    from beitv2_core.assembly.held_out import allow_pixels
    from beitv2_core.engine import distributed

    distributed.init()
    computing: Any = contextlib.nullcontext()
    model: Any
    lists = None if list_file is None else Path(list_file)
    if is_exported(run):
        model = load_exported(run, kind="classifier", runtime=runtime, precision=precision)
        config, classes, crop_share = None, list(model.description.classes), model.description.crop_share
        images = _images(run, model, config, data, lists, classes)
        if hasattr(images, "reading"):
            images.reading = images.reading._replace(upright=model.reading.upright)
    else:
        computing = live_model(run, runtime=runtime, precision=precision)
        model, config, classes = load_classifier(str(run))
        crop_share = crop_share_of(model, str(run))
        images = _images(run, model, config, data, lists, classes)
    allow_pixels((images,), max_pixels)
    chosen = _subset(None if subset is None else Path(subset), classes)
    with computing, showing(progress):
        found = measure(model, images, model.image_size, crop_share=crop_share, batch_size=batch_size, subset=chosen,
                        num_workers=workers(num_workers))
    folder, files = Path(out) if out is not None else run_folder_of(run), []
    if distributed.is_main():
        write_results(folder, found, classes)
        files = [folder / "per_class.csv", folder / "evaluation.json", folder / "figures" / "confusion.png"]
        draw_confusion(files[-1], found.confusion, classes)
    return Evaluation(top1=found.top1, top5=found.top5, loss=found.loss, images=found.images, classes=classes,
                      per_class=found.per_class(), confusion=found.confusion, folder=folder, files=files)


def _images(run: Union[str, Path], model: Any, config: Any, data: Optional[str], list_file: Optional[Path],
            classes: list[str]) -> Any:
    from beitv2_cls.classes import has_names
    from beitv2_cls.data import asked_set, validation_set

    if data is not None:
        return asked_set(config, str(data), list_file, classes, image_size=model.image_size,
                         named=config is not None or has_names(classes))
    if list_file is not None:
        raise ConfigError(f"--list-file {list_file}: below which folder are its paths? Add --data FOLDER.")
    validation = None if config is None else validation_set(config, classes)
    if validation is None:
        raise DataError(f"{run}: no validation images are known. Give --data FOLDER of class folders.")
    return validation


def _subset(path: Optional[Path], classes: list[str]) -> Optional[list[int]]:
    from beitv2_core.data.sources.lists import read_words

    if path is None:
        return None
    names = [text for _, text in read_words(path, what="--subset")]
    unknown = [name for name in names if name not in classes]
    if unknown or not names:
        raise DataError(f"--subset {path}: {len(unknown)} of {len(names)} names are no class of the model "
                        f"({', '.join(unknown[:5])}). One class name (synset) a line is expected.")
    return [classes.index(name) for name in names]
