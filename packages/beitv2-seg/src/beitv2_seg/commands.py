# SPDX-License-Identifier: Apache-2.0
"""`beitv2 segment train | evaluate | predict | export | compare`, with PaddleSeg's flags. Costs no Paddle to import."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import typer

from beitv2_core.errors import ConfigError, MissingDependencyError

#: the flags are read by `config/flags.py`, --help too
MEANS = ("loss", *(f"{start}{name}" for start in ("", "best_", "ema_", "ema_best_")
                   for name in ("miou", "macc", "aacc")))
PASS_ON: dict[str, Any] = {"add_help_option": False, "context_settings": {"allow_extra_args": True,
                                                                         "ignore_unknown_options": True}}


def register(app: typer.Typer) -> None:
    """Put the commands on `app` (entry point `beitv2.commands`)."""
    segment = typer.Typer(no_args_is_help=True, help="Semantic segmentation with PaddleSeg's YAML files and flags "
                                                     "(stage 4).")
    for function in (train, evaluate, predict, export, compare):
        segment.command(**PASS_ON)(function)
    app.add_typer(segment, name="segment")


def train(context: typer.Context) -> None:
    """Train a segmentor: --config YAML and the flags of PaddleSeg's tools/train.py."""
    from beitv2_seg.config import read_config_file
    from beitv2_seg.config.flags import train_flags

    flags = train_flags(context.args, context.command_path)
    run = {"seed": flags.seed, "num_workers": flags.num_workers, "save_interval": flags.save_interval,
           "log_iters": flags.log_iters, "keep_checkpoint_max": flags.keep_checkpoint_max, "do_eval": flags.do_eval,
           "early_stop_intervals": flags.early_stop_intervals, "use_ema": flags.use_ema, "precision": flags.precision,
           "sharding": flags.sharding, "repeats": flags.repeats, "windows_at_once": flags.windows,
           "max_corrupt": flags.max_corrupt}
    asked = {"output": flags.save_dir, "iters": flags.iters, "batch_size": flags.batch_size,
             "lr_scheduler.learning_rate": flags.learning_rate, **{f"run.{key}": value for key, value in run.items()}}
    settings = read_config_file(flags.config, opts=flags.opts, flags={key: value for key, value in asked.items()
                                                                      if value is not None})
    set_device(flags.device)
    if flags.use_vdl:
        _need_visualdl()
    from beitv2_seg.assembly import build_segmentation

    if flags.dry_run:
        from beitv2_seg.assembly.dry_run import run_one_step

        for line in run_one_step(settings).lines():
            typer.echo(line)
        return
    loop = build_segmentation(settings, profiler_options=flags.profiler_options)
    summary = loop.run(resume=_resume(flags.resume_model))
    for name, value in summary.get("final", {}).items():
        typer.echo(f"{name:<18}" + ("not measured" if value is None else
                                    f"{value:.4f}" if name in MEANS else f"{value:g}"))


def evaluate(context: typer.Context) -> None:
    """Measure a segmentor: mIoU, mAcc, aAcc; the IoU of every class as CSV and as an image."""
    from beitv2_seg.config.flags import evaluate_flags

    flags = evaluate_flags(context.args, context.command_path)
    set_device(flags.device)
    from beitv2_core.commands.options import workers
    from beitv2_core.commands.report import run_folder_of
    from beitv2_core.engine import distributed
    from beitv2_core.exported_model import is_exported
    from beitv2_seg.assembly import build_dataset
    from beitv2_seg.reading.evaluate import evaluate as measure
    from beitv2_seg.reading.evaluate import in_words, write_evaluation
    from beitv2_seg.reading.metrics import DEFINITION

    distributed.init()
    exported = is_exported(flags.model_path)
    found = _exported_segmentor(flags) if exported else _segmentor(flags)
    config, model = found.config, found.model
    with contextlib.nullcontext() if exported else _computing(flags):
        result = measure(model, build_dataset(config, "val_dataset"), config.test_config, ignored=config.ignored,
                         num_classes=config.model.num_classes, window_batch=flags.windows,
                         num_workers=workers(flags.num_workers))
    if not distributed.is_main():
        return
    typer.echo(f"{in_words(result)}   {result.images} images")
    typer.echo(f"({DEFINITION})")
    for line in result.warnings(config, found.classes):
        typer.echo(f"warning: {line}", err=True)
    folder = _folder(flags, run_folder_of(flags.model_path))
    for path in write_evaluation(result, found.classes, folder):
        typer.echo(f"written: {path}")


def predict(context: typer.Context) -> None:
    """Label every pixel of images of any size: overlays, raw label maps, a legend with class names."""
    from beitv2_seg.config.flags import predict_flags

    flags = predict_flags(context.args, context.command_path)
    from beitv2_core.commands.options import workers
    from beitv2_core.engine.progress import Progress
    from beitv2_seg.reading.predict import class_colours, named_images, predict_files, write_legend

    folder = _folder(flags, Path("output/result"))
    paths = named_images(flags.image_path, leave_out=folder)
    model, transforms, test, classes, computing = _reader(flags)
    colours = class_colours(len(classes), flags.custom_color)
    written = []
    with computing, Progress("predict", len(paths), 0, images_per_step=1) as progress:
        for item in predict_files(model, paths, transforms, test, folder, colours=colours, window_batch=flags.windows,
                                  max_pixels=flags.max_pixels, num_workers=workers(flags.num_workers)):
            written.append(item)
            progress.advance(len(written))
            typer.echo(f"{item.path}: {item.overlay}, {item.labels}")
    for path in write_legend(written, classes, colours, folder):
        typer.echo(f"written: {path}")


def export(context: typer.Context) -> None:
    """Write a segmentor as a file that runs without our code (also: `beitv2 export RUN`)."""
    from beitv2_seg.config.flags import export_flags

    flags = export_flags(context.args, context.command_path)
    set_device(flags.device)
    from beitv2_core.commands.export import difference_lines
    from beitv2_core.export import export_model
    from beitv2_seg.plugins.export import exportable_of

    model = exportable_of(_segmentor(flags))
    height, width = model.facts["image_size"]
    if flags.input_shape is not None and flags.input_shape[1:] != [3, height, width]:
        raise ConfigError(f"--input_shape {flags.input_shape}: this model reads windows of {height} x {width} pixels; "
                          f"expected [any, 3, {height}, {width}]. Larger images are read by windows.")
    folder = _folder(flags, Path("output/inference_model"))
    for line in difference_lines(export_model(model, folder, form=flags.format)):
        typer.echo(line)
    typer.echo(f"written: {folder}")


def compare(context: typer.Context) -> None:
    """Train from a pretrained backbone and from scratch in equal steps; a table and images of both."""
    from beitv2_seg.config.flags import compare_flags

    flags = compare_flags(context.args, context.command_path)
    from beitv2_seg.compare import draw_examples, rows_of, train_both, write_table

    output = Path(flags.output)
    table = train_both(flags.config, flags.pretrained, output, iters=flags.iters, opts=flags.opts)
    figure = output / "figures" / "compare.png"
    draw_examples(output, figure, most=flags.images)
    summary = write_table(table, output)
    for row in rows_of(table):
        typer.echo(f"{row[0]:<12}" + "".join(f"  {cell:>12}" for cell in row[1:]))
    typer.echo(f"written: {summary}")
    typer.echo(f"written: {figure}")


def set_device(name: str | None) -> None:
    """Compute there; ConfigError where this Paddle has no such device.  None: a GPU where there is one."""
    import paddle

    if name is None:
        return  # Paddle's own choice
    try:
        paddle.set_device(name)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--device {name}: this Paddle has no such device ({str(error).splitlines()[0]}). Use "
                          "--device cpu, or install paddlepaddle-gpu.") from error


def _reader(flags: argparse.Namespace) -> tuple[Any, list[Any], Any, list[str], Any]:
    """Model, transforms, test settings, class names of --model_path, and the context it computes in.

    A run, weights, or an exported model.
    """
    from beitv2_core.exported_model import is_exported
    from beitv2_seg.config import TestConfig
    from beitv2_seg.reading.label_map import exported_transforms

    if is_exported(flags.model_path):  # an ONNX model needs no Paddle: nothing here may import it
        model = _exported(flags)
        reading = model.description.reading or {}
        test = TestConfig(**{**reading.get("test_config", {}), **_reading_flags(flags)})
        return (model, exported_transforms(model), test, list(model.description.classes or ()),
                contextlib.nullcontext())
    set_device(f"{flags.device}:{flags.device_id}" if flags.device == "gpu" else flags.device)
    from beitv2_seg.assembly import image_transforms

    found = _segmentor(flags)
    return (found.model, image_transforms(found.config), found.config.test_config, found.classes, _computing(flags))


def _exported(flags: argparse.Namespace) -> Any:
    """The exported segmenter of --model_path, as --device, --runtime and --precision ask for it."""
    from beitv2_core.exported_model import load_exported

    return load_exported(flags.model_path, kind="segmenter", runtime=flags.runtime, precision=flags.precision,
                         device="gpu" if (flags.device or "").startswith("gpu") else "cpu")


def _exported_segmentor(flags: argparse.Namespace) -> Any:
    """An exported segmenter with the settings of --config: it knows neither images nor labels of its own."""
    from beitv2_seg.assembly import Segmentor
    from beitv2_seg.config import read_config_file

    if not flags.config:
        raise ConfigError(f"--model_path {flags.model_path}: an exported model names no images to measure on. Add "
                          "--config YAML, whose val_dataset and test_config are used.")
    changes = {f"test_config.{key}": value for key, value in _reading_flags(flags).items()}
    config, model = read_config_file(flags.config, opts=flags.opts, flags=changes), _exported(flags)
    if config.model.num_classes != model.num_classes:
        raise ConfigError(f"--config {flags.config}: {config.model.num_classes} classes, the exported model has "
                          f"{model.num_classes}. Give the settings it was trained with.")
    return Segmentor(model=model, config=config, classes=list(model.description.classes))


def _computing(flags: argparse.Namespace) -> Any:
    """The block in which the live model of --model_path computes."""
    from beitv2_core.commands.options import live_model

    return live_model(flags.model_path, runtime=flags.runtime, precision=flags.precision)


def _reading_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """The flags that change how images are read, as test_config's keys; those that were given."""
    names = ("aug_eval", "scales", "flip_horizontal", "flip_vertical", "is_slide", "crop_size", "stride")
    return {key: getattr(flags, key) for key in names if getattr(flags, key, None) is not None}


def _segmentor(flags: argparse.Namespace) -> Any:
    """The model of --model_path with the settings of --config, --opts and the flags."""
    from beitv2_seg.assembly import class_names, load_segmentor
    from beitv2_seg.config import apply_opts, read_config_file

    changes = {f"test_config.{key}": value for key, value in _reading_flags(flags).items()}
    if flags.config:
        return load_segmentor(flags.model_path, read_config_file(flags.config, opts=flags.opts, flags=changes))
    found = load_segmentor(flags.model_path)
    config = apply_opts(found.config, flags.opts, changes)
    if config.model != found.config.model:
        raise ConfigError(f"--opts {' '.join(flags.opts)}: model: the model of a run cannot be changed. Leave "
                          "the model's settings out.")
    return found._replace(config=config, classes=class_names(config))


def _resume(given: str | None) -> str | None:
    """What the loop wants: "auto", None (a new run) or a .pdckpt."""
    if given is None or given == "auto":
        return given
    from beitv2_core.assembly.restore import checkpoint_folder

    folder = checkpoint_folder(Path(given))
    if folder is None or not folder.is_dir():
        raise ConfigError(f"--resume_model {given}: no such checkpoint; expected auto, a run folder or a .pdckpt "
                          "folder in it. PaddleSeg's iter_N folders hold no generators: no exact resume from them.")
    return str(folder)


def _folder(flags: argparse.Namespace, default: Path) -> Path:
    """Where results go: --save_dir, or `--opts output=...`, or `default`."""
    if flags.save_dir:
        return Path(flags.save_dir)
    given = [text.partition("=")[2] for text in flags.opts if text.partition("=")[0].strip() == "output"]
    return Path(given[-1]) if given else default


def _need_visualdl() -> None:
    try:
        import visualdl  # noqa: F401
    except Exception as error:  # optional: any failure of its import counts
        raise MissingDependencyError(f"--use_vdl: VisualDL cannot be imported ({error}). Type: pip install visualdl, "
                                     "or leave the flag out.") from error
