# SPDX-License-Identifier: Apache-2.0
"""`beitv2 segment train | evaluate | predict | export | compare`, with PaddleSeg's flags. Costs no Paddle to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple, Optional

import typer
from typer.core import TyperCommand

from beitv2_core.errors import ConfigError

#: the flags are read by `flags.py`, --help too
MEANS = ("loss", *(f"{start}{name}" for start in ("", "best_", "ema_", "ema_best_")
                   for name in ("miou", "macc", "aacc")))
class _Offered(NamedTuple):
    """One word that a shell may complete, as typer's classes for shells read it."""

    value: str
    help: str
    type: str = "plain"


class _FlagCommand(TyperCommand):
    """A command whose flags argparse reads: typer knows none of them, so that completion asks the parser."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The flags that begin like `incomplete`; else nothing, and shells offer files."""
        from beitv2_seg.flags import PARSERS

        if not incomplete.startswith("-"):
            return []
        actions = PARSERS[ctx.info_name](ctx.command_path)._actions
        return [_Offered(flag, action.help or "") for action in actions for flag in action.option_strings
                if flag.startswith(incomplete)]


PASS_ON: dict[str, Any] = {"cls": _FlagCommand, "add_help_option": False, "context_settings": {"allow_extra_args": True,
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
    from beitv2_seg import api
    from beitv2_seg.flags import train_flags

    flags = train_flags(context.args, context.command_path)
    done = api.finetune(
        flags.config, flags.save_dir, set=flags.opts, resume=flags.resume_model, device=flags.device,
        iters=flags.iters, batch_size=flags.batch_size, learning_rate=flags.learning_rate, seed=flags.seed,
        num_workers=flags.num_workers, save_interval=flags.save_interval, log_iters=flags.log_iters,
        keep_checkpoint_max=flags.keep_checkpoint_max, do_eval=flags.do_eval,
        early_stop_intervals=flags.early_stop_intervals, use_ema=flags.use_ema, precision=flags.precision,
        sharding=flags.sharding, verify_every=flags.verify_every, repeats=flags.repeats, windows=flags.windows,
        max_corrupt=flags.max_corrupt,
        use_vdl=flags.use_vdl, profiler_options=flags.profiler_options, dry_run=flags.dry_run)
    if not isinstance(done, api.TrainedRun):
        for line in done.lines():
            typer.echo(line)
        return
    for name, value in done.final.items():
        typer.echo(f"{name:<18}" + ("not measured" if value is None else
                                    f"{value:.4f}" if name in MEANS else f"{value:g}"))


def evaluate(context: typer.Context) -> None:
    """Measure a segmentor: mIoU, mAcc, aAcc; the IoU of every class as CSV and as an image."""
    from beitv2_seg import api
    from beitv2_seg.flags import evaluate_flags
    from beitv2_seg.reading.metrics import DEFINITION, in_words

    flags = evaluate_flags(context.args, context.command_path)
    found = api.evaluate(flags.model_path, config=flags.config, set=flags.opts, out=_folder(flags), device=flags.device,
                         windows=flags.windows, num_workers=flags.num_workers, runtime=flags.runtime,
                         precision=flags.precision, **_reading_flags(flags))
    if not found.files:  # another process of the launch writes and says it
        return
    typer.echo(f"{in_words(found)}   {found.images} images")
    typer.echo(f"({DEFINITION})")
    for line in found.warnings:
        typer.echo(f"warning: {line}", err=True)
    for path in found.files:
        typer.echo(f"written: {path}")


def predict(context: typer.Context) -> None:
    """Label every pixel of images of any size: overlays, raw label maps, a legend with class names."""
    from beitv2_seg import api
    from beitv2_seg.flags import predict_flags

    flags = predict_flags(context.args, context.command_path)
    reading = _reading_flags(flags)
    done = api.predict(
        flags.model_path, flags.image_path, _folder(flags) or Path("output/result"), config=flags.config,
        set=flags.opts, device=f"{flags.device}:{flags.device_id}" if flags.device == "gpu" else flags.device,
        aug_pred=reading.pop("aug_eval", None), windows=flags.windows, max_pixels=flags.max_pixels,
        custom_color=flags.custom_color, num_workers=flags.num_workers, runtime=flags.runtime,
        precision=flags.precision, on_image=lambda item: typer.echo(f"{item.path}: {item.overlay}, {item.labels}"),
        **reading)
    for path in done.legend:
        typer.echo(f"written: {path}")


def export(context: typer.Context) -> None:
    """Write a segmentor as a file that runs without our code (also: `beitv2 export RUN`)."""
    from beitv2_seg import api
    from beitv2_seg.flags import export_flags

    flags = export_flags(context.args, context.command_path)
    api.set_device(flags.device)
    from beitv2_core.commands.export import difference_lines
    from beitv2_core.exporting import export_model
    from beitv2_seg.plugins.export import exportable_of

    model = exportable_of(api.segmentor(flags.model_path, flags.config, flags.opts))
    height, width = model.facts["image_size"]
    if flags.input_shape is not None and flags.input_shape[1:] != [3, height, width]:
        raise ConfigError(f"--input_shape {flags.input_shape}: this model reads windows of {height} x {width} pixels; "
                          f"expected [any, 3, {height}, {width}]. Larger images are read by windows.")
    folder = _folder(flags) or Path("output/inference_model")
    for line in difference_lines(export_model(model, folder, form=flags.format)):
        typer.echo(line)
    typer.echo(f"written: {folder}")


def compare(context: typer.Context) -> None:
    """Train from a pretrained backbone and from scratch in equal steps; a table and images of both."""
    from beitv2_seg.flags import compare_flags

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


def _reading_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """The flags that change how images are read; those that were given."""
    names = ("aug_eval", "scales", "flip_horizontal", "flip_vertical", "is_slide", "crop_size", "stride",
             "window_weights")
    return {key: getattr(flags, key) for key in names if getattr(flags, key, None) is not None}


def _folder(flags: argparse.Namespace) -> Optional[Path]:
    """Where results go: --save_dir, or `--opts output=...`, or None."""
    if flags.save_dir:
        return Path(flags.save_dir)
    given = [text.partition("=")[2] for text in flags.opts if text.partition("=")[0].strip() == "output"]
    return Path(given[-1]) if given else None
