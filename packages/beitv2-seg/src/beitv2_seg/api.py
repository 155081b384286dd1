# SPDX-License-Identifier: Apache-2.0
"""The functions behind the commands, for Python: `finetune`, `predict` and `evaluate`. Importing it costs no Paddle.

Arguments have the names of PaddleSeg's flags; `out` is --save_dir, `set` --opts and `resume` --resume_model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

import numpy as np

from beitv2_core.api.arguments import Changes, Paths, live_model, overrides_of, paths_of, run_folder_of, workers
from beitv2_core.api.train import TrainedRun, train
from beitv2_core.engine.progress import Progress, showing
from beitv2_core.errors import ConfigError, MissingDependencyError
from beitv2_core.exported_model import is_exported, load_exported
from beitv2_core.pixels.size import MAX_PIXELS

if TYPE_CHECKING:
    from beitv2_core.assembly.dry_run import DryRun
    from beitv2_seg.assembly import Segmentor
    from beitv2_seg.reading.predict import Written

Folder = Union[str, Path]


class Evaluation(NamedTuple):
    """A segmentor on labelled images.

    miou, macc and aacc are shares over the classes that were measured, NaN where nothing is labelled.  iou, accuracy:
    (classes,), NaN where a class is absent; confusion: int64 (classes, classes), rows are labels.  classes: names by
    number.  warnings: classes without a labelled pixel.  files: written in folder; none in processes but the first.
    """

    miou: float
    macc: float
    aacc: float
    images: int
    classes: list[str]
    iou: np.ndarray
    accuracy: np.ndarray
    confusion: np.ndarray
    warnings: list[str]
    folder: Path
    files: list[Path]


class LabelledFiles(NamedTuple):
    """Images that were labelled: the files of each (path, overlay, labels, pixels of each class), and of the legend.

    classes: names by number; colours: uint8 (classes, 3).
    """

    folder: Path
    images: list[Written]
    legend: list[Path]
    classes: list[str]
    colours: np.ndarray


def finetune(config: Union[str, Path], out: Optional[Folder] = None, *, set: Changes = (),
             resume: Optional[Folder] = None, device: Optional[str] = None, iters: Optional[int] = None,
             batch_size: Optional[int] = None, learning_rate: Optional[float] = None, seed: Optional[int] = None,
             num_workers: Optional[int] = None, save_interval: Optional[int] = None, log_iters: Optional[int] = None,
             keep_checkpoint_max: Optional[int] = None, do_eval: Optional[bool] = None,
             early_stop_intervals: Optional[int] = None, use_ema: Optional[bool] = None,
             precision: Optional[str] = None, sharding: Optional[str] = None, repeats: Optional[int] = None,
             windows: Optional[int] = None, max_corrupt: Optional[float] = None, verify_every: Optional[int] = None,
             use_vdl: bool = False, profiler_options: Optional[str] = None,
             dry_run: bool = False, progress: Optional[bool] = None) -> Union[TrainedRun, DryRun]:
    """Fine-tune a pretrained backbone as a segmentor (stage 4).  The command is `beitv2 segment train`.

    config: a PaddleSeg YAML file, or the name of a packaged one.  out: run folder; default: `output` of the YAML.
    set: changed settings, {"model.channels": 64} or texts.  resume: None starts a new run; "auto" continues from the
    newest checkpoint of the run folder, if any; or a run folder or a .pdckpt.  device: "cpu", "gpu", "gpu:1"; default:
    a GPU where Paddle has one.  iters, batch_size, learning_rate: of the YAML, as PaddleSeg's flags change them.  seed
    to verify_every: the settings of the section `run` of those names (windows: windows_at_once).  use_vdl: insist on
    VisualDL.  profiler_options: of Paddle's profiler.  dry_run: take one step, write nothing; the result is then its
    measurements.  progress, signals: as for `beitv2_core.pretrain`.
    Raises ConfigError, DataError, CheckpointError, NonFiniteLossError, OutOfMemoryError, OutputError.
    """
    from beitv2_seg.config import read_config_file

    run = {"seed": seed, "num_workers": num_workers, "save_interval": save_interval, "log_iters": log_iters,
           "keep_checkpoint_max": keep_checkpoint_max, "do_eval": do_eval, "early_stop_intervals": early_stop_intervals,
           "use_ema": use_ema, "precision": precision, "sharding": sharding, "repeats": repeats,
           "windows_at_once": windows, "max_corrupt": max_corrupt, "verify_every": verify_every}
    asked = {"output": None if out is None else str(out), "iters": iters, "batch_size": batch_size,
             "lr_scheduler.learning_rate": learning_rate, **{f"run.{key}": value for key, value in run.items()}}
    settings = read_config_file(str(config), opts=overrides_of(set),
                                flags={key: value for key, value in asked.items() if value is not None})
    set_device(device)
    if use_vdl:
        _need_visualdl()
    from beitv2_seg.assembly import build_segmentation

    if dry_run:
        from beitv2_seg.assembly.dry_run import run_one_step

        with showing(progress):
            return run_one_step(settings)
    found: TrainedRun = train(settings, lambda wanted: build_segmentation(wanted, profiler_options=profiler_options),
                              resume=_checkpoint(resume), progress=progress)
    return found


def evaluate(run: Folder, *, config: Union[str, Path, None] = None, set: Changes = (), out: Optional[Folder] = None,
             device: Optional[str] = None, aug_eval: Optional[bool] = None, scales: Optional[Sequence[float]] = None,
             flip_horizontal: Optional[bool] = None, flip_vertical: Optional[bool] = None,
             is_slide: Optional[bool] = None, crop_size: Optional[Sequence[int]] = None,
             stride: Optional[Sequence[int]] = None, window_weights: Optional[str] = None, windows: int = 4,
             num_workers: Optional[int] = None, runtime: Optional[str] = None, precision: str = "f32",
             progress: Optional[bool] = None) -> Evaluation:
    """Measure a segmentor: mIoU, mAcc, aAcc and the IoU of every class; write tables and an image.

    run: run folder, .pdckpt, .pdparams or exported folder.  config: the YAML whose val_dataset and test_config are
    used; default: the run's.  out: folder of the files; default: the run's.  aug_eval to window_weights:
    test_config's values of those names, of the run where they are not given; sizes are (width, height) in pixels.
    windows: sliding windows computed together.  num_workers: processes that read images; does not change the result.
    runtime, precision: what runs an exported model, and in which numbers.  set, device, progress: as for `finetune`.
    Raises ConfigError, DataError, CheckpointError, ExportError.
    """
    set_device(device)
    from beitv2_core.engine import distributed
    from beitv2_seg.assembly import build_dataset
    from beitv2_seg.reading.evaluate import evaluate as measure
    from beitv2_seg.reading.evaluate import write_evaluation

    distributed.init()
    changes = reading(aug_eval=aug_eval, scales=scales, flip_horizontal=flip_horizontal, flip_vertical=flip_vertical,
                      is_slide=is_slide, crop_size=crop_size, stride=stride, window_weights=window_weights)
    computing: Any = contextlib.nullcontext()
    if is_exported(run):
        found = _exported_segmentor(run, config, overrides_of(set), changes, exported(run, device, runtime, precision))
    else:
        found = segmentor(run, config, overrides_of(set), changes)
        computing = live_model(run, runtime=runtime, precision=precision)
    settings, classes = found.config, found.classes
    with computing, showing(progress):
        result = measure(found.model, build_dataset(settings, "val_dataset", run_folder_of(run)),
                         settings.test_config, ignored=settings.ignored, num_classes=settings.model.num_classes,
                         window_batch=windows, num_workers=workers(num_workers))
    scores, folder = result.scores, Path(out) if out is not None else run_folder_of(run)
    return Evaluation(miou=scores.miou, macc=scores.macc, aacc=scores.aacc, images=result.images, classes=classes,
                      iou=scores.iou, accuracy=scores.accuracy, confusion=result.counts,
                      warnings=result.warnings(settings, classes), folder=folder,
                      files=write_evaluation(result, classes, folder) if distributed.is_main() else [])


def predict(run: Folder, images: Paths, out: Folder = "output/result", *, config: Union[str, Path, None] = None,
            set: Changes = (), device: Optional[str] = None, aug_pred: Optional[bool] = None,
            scales: Optional[Sequence[float]] = None, flip_horizontal: Optional[bool] = None,
            flip_vertical: Optional[bool] = None, is_slide: Optional[bool] = None,
            crop_size: Optional[Sequence[int]] = None, stride: Optional[Sequence[int]] = None,
            window_weights: Optional[str] = None, windows: int = 4,
            max_pixels: int = MAX_PIXELS, custom_color: Optional[Sequence[int]] = None,
            num_workers: Optional[int] = None, runtime: Optional[str] = None, precision: str = "f32",
            on_image: Optional[Callable[[Written], None]] = None, progress: Optional[bool] = None) -> LabelledFiles:
    """Label every pixel of images of any size; write overlays, raw label maps and a legend with class names.

    run, config, set, device, scales to windows, num_workers, runtime, precision, progress: as for `evaluate`; aug_pred
    is its aug_eval.  images: images, folders, or lists of them.  out: folder to write.  max_pixels: most pixels of an
    image that is decoded.  custom_color: R, G, B of the first classes, one after the other.  on_image: called with the
    files of each image once they are written.  `numpy.asarray(PIL.Image.open(one.labels))` is a label map.
    Raises ConfigError, DataError, CheckpointError, ExportError.
    """
    from beitv2_seg.reading.predict import class_colours, named_images, predict_files, write_legend

    folder = Path(out)
    paths = named_images(paths_of(images), leave_out=folder)
    changes = reading(aug_eval=aug_pred, scales=scales, flip_horizontal=flip_horizontal, flip_vertical=flip_vertical,
                      is_slide=is_slide, crop_size=crop_size, stride=stride, window_weights=window_weights)
    model, transforms, test, classes, computing = _reader(run, config, overrides_of(set), changes, device, runtime,
                                                          precision)
    colours = class_colours(len(classes), custom_color)
    written: list[Written] = []
    with computing, showing(progress), Progress("predict", len(paths), 0, images_per_step=1) as shown:
        for item in predict_files(model, paths, transforms, test, folder, colours=colours, window_batch=windows,
                                  max_pixels=max_pixels, num_workers=workers(num_workers)):
            written.append(item)
            shown.advance(len(written))
            if on_image is not None:
                on_image(item)
    return LabelledFiles(folder, written, write_legend(written, classes, colours, folder), classes, colours)


def reading(**asked: Any) -> dict[str, Any]:
    """What changes how images are read, as test_config's keys; those that were given."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asked.items()
            if value is not None}


def segmentor(run: Folder, config: Union[str, Path, None] = None, opts: Sequence[str] = (),
              changes: Optional[dict[str, Any]] = None) -> Segmentor:
    """The live model of a run or file, with the settings of a YAML file or the run's, under `opts` and `changes`."""
    from beitv2_seg.assembly import class_names, load_segmentor
    from beitv2_seg.config import apply_opts, read_config_file

    flags = _of_test_config(changes)
    if config:
        return load_segmentor(str(run), read_config_file(str(config), opts=opts, flags=flags))
    found = load_segmentor(str(run))
    settings = apply_opts(found.config, opts, flags)
    if settings.model != found.config.model:
        raise ConfigError(f"--opts {' '.join(opts)}: model: the model of a run cannot be changed. Leave "
                          "the model's settings out.")
    return found._replace(config=settings, classes=class_names(settings))


def exported(run: Folder, device: Optional[str], runtime: Optional[str], precision: str) -> Any:
    """The exported segmenter of a folder, as device, runtime and precision ask for it."""
    return load_exported(run, kind="segmenter", runtime=runtime, precision=precision,
                         device="gpu" if (device or "").startswith("gpu") else "cpu")


def set_device(name: Optional[str]) -> None:
    """Compute there; ConfigError where this Paddle has no such device.  None: a GPU where there is one."""
    import paddle

    if name is None:
        return  # Paddle's own choice
    try:
        paddle.set_device(name)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--device {name}: this Paddle has no such device ({str(error).splitlines()[0]}). Use "
                          "--device cpu, or install paddlepaddle-gpu.") from error


def _reader(run: Folder, config: Union[str, Path, None], opts: Sequence[str], changes: dict[str, Any],
            device: Optional[str], runtime: Optional[str],
            precision: str) -> tuple[Any, list[Any], Any, list[str], Any]:
    """Model, transforms, test settings, class names of a run, weights or an exported model, and the context it
    computes in."""
    from beitv2_seg.config import TestConfig
    from beitv2_seg.reading.label_map import exported_transforms

    if is_exported(run):  # an ONNX model needs no Paddle: nothing here may import it
        model = exported(run, device, runtime, precision)
        known = model.description.reading or {}
        test = TestConfig(**{**known.get("test_config", {}), **changes})
        return (model, exported_transforms(model), test, list(model.description.classes or ()),
                contextlib.nullcontext())
    set_device(device)
    from beitv2_seg.assembly import image_transforms

    found = segmentor(run, config, opts, changes)
    return (found.model, image_transforms(found.config), found.config.test_config, found.classes,
            live_model(run, runtime=runtime, precision=precision))


def _exported_segmentor(run: Folder, config: Union[str, Path, None], opts: Sequence[str], changes: dict[str, Any],
                        model: Any) -> Segmentor:
    """An exported segmenter with the settings of a YAML file: it knows neither images nor labels of its own."""
    from beitv2_seg.assembly import Segmentor
    from beitv2_seg.assembly.data import with_known_classes
    from beitv2_seg.config import read_config_file

    if not config:
        raise ConfigError(f"--model_path {run}: an exported model names no images to measure on. Add "
                          "--config YAML, whose val_dataset and test_config are used.")
    settings = with_known_classes(read_config_file(str(config), opts=opts, flags=_of_test_config(changes)),
                                  model.description.classes)
    if settings.model.num_classes != model.num_classes:
        raise ConfigError(f"--config {config}: {settings.model.num_classes} classes, the exported model has "
                          f"{model.num_classes}. Give the settings it was trained with.")
    return Segmentor(model=model, config=settings, classes=list(model.description.classes))


def _of_test_config(changes: Optional[dict[str, Any]]) -> dict[str, Any]:
    return {f"test_config.{key}": value for key, value in (changes or {}).items()}


def _checkpoint(given: Optional[Folder]) -> str:
    """What the loop wants: "auto", "never" (a new run) or a .pdckpt."""
    if given is None or given in ("auto", "never"):
        return "never" if given is None else str(given)
    from beitv2_core.assembly.restore import checkpoint_folder

    folder = checkpoint_folder(Path(given))
    if folder is None or not folder.is_dir():
        raise ConfigError(f"--resume_model {given}: no such checkpoint; expected auto, a run folder or a .pdckpt "
                          "folder in it. PaddleSeg's iter_N folders hold no generators: no exact resume from them.")
    return str(folder)


def _need_visualdl() -> None:
    try:
        import visualdl  # noqa: F401
    except Exception as error:  # optional: any failure of its import counts
        raise MissingDependencyError(f"--use_vdl: VisualDL cannot be imported ({error}). Type: pip install visualdl, "
                                     "or leave the flag out.") from error
