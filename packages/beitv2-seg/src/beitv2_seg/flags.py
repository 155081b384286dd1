# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's flags, with its names and meanings.

Read by argparse, not typer: `--opts a=1 b=2` and `--scales 0.5 1.0` take several values, which typer's options do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from beitv2_core.commands.options import PRECISION_HELP, RUNTIME_HELP
from beitv2_core.errors import ConfigError
from beitv2_core.pixels.size import MAX_PIXELS


def train_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of PaddleSeg's tools/train.py, and ours."""
    parser = _parser(prog, "Train a segmentor from a PaddleSeg YAML file.")
    parser.add_argument("--save_dir", help="run folder (default: `output` of the YAML, or ./output)")
    parser.add_argument("--dry-run", "--dry_run", dest="dry_run", action="store_true",
                        help="build everything, take one step, print sizes, write nothing (not PaddleSeg's)")
    parser.add_argument("--num_workers", type=int, help="processes that decode and augment (default: 0)")
    parser.add_argument("--do_eval", action="store_true", default=None,
                        help="evaluate at every save_interval, keep the best model")
    parser.add_argument("--use_vdl", action="store_true", help="insist on VisualDL (written anyway where installed)")
    parser.add_argument("--use_ema", action="store_true", default=None,
                        help="average the weights, evaluate the average too")
    parser.add_argument("--resume_model", "--resume", metavar="auto|RUN|CHECKPOINT",
                        help="continue a run: auto takes the newest checkpoint of --save_dir, if any")
    parser.add_argument("--iters", type=int, help="iterations; the schedule's length follows")
    parser.add_argument("--batch_size", type=int, help="images of one process behind one update: no accumulating")
    parser.add_argument("--learning_rate", type=float, help="peak learning rate")
    parser.add_argument("--save_interval", type=int, help="iterations between checkpoints (default 1000)")
    parser.add_argument("--log_iters", type=int, help="iterations between log lines (default: 10)")
    parser.add_argument("--keep_checkpoint_max", type=int, help="newest checkpoints kept (default: 5)")
    parser.add_argument("--early_stop_intervals", type=int,
                        help="stop after that many evaluations without a better mIoU")
    parser.add_argument("--seed", type=int, help="seed of weights, order, augmentation (default: 0)")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"],
                        help="mixed precision: fp16 on GPUs, bf16 also on CPUs that multiply it (default: fp32)")
    parser.add_argument("--sharding", choices=["off", "stage1", "stage2"],
                        help="divide the optimizer's state among the processes; stage2: the gradients too (default: "
                             "off; not PaddleSeg's)")
    parser.add_argument("--verify_every", "--verify-every", type=int, metavar="ITERS",
                        help="compute every so many iterations one twice and compare them bit for bit (default: none; "
                             "not PaddleSeg's)")
    parser.add_argument("--amp_level", default="O1", choices=["O1", "O2"], help="O1; O2 is refused")
    parser.add_argument("--profiler_options", help="'batch_range=[a,b];...': Paddle's profiler, by PaddleSeg")
    parser.add_argument("--data_format", default="NCHW", choices=["NCHW", "NHWC"], help="NCHW; NHWC is refused")
    parser.add_argument("--repeats", type=int, help="times each sample is used in an epoch (default: 1)")
    parser.add_argument("--use_multilabel", action="store_true", help="refused: one class a pixel")
    parser.add_argument("--to_static_training", action="store_true", default=None,
                        help="refused: Paddle cannot turn the training forward into a graph")
    parser.add_argument("--windows", type=int, help="sliding windows computed together (default: 4)")
    parser.add_argument("--max_corrupt", type=float,
                        help="share of undecodable files that stops the run (default: 0.001)")
    return parser


def train_flags(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """The flags of PaddleSeg's tools/train.py; None for those of the section `run` that were not given."""
    flags = _parse(train_parser(prog), arguments)
    _refuse(flags)
    return flags


def evaluate_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of PaddleSeg's tools/val.py, and ours."""
    parser = _parser(prog, "Measure a segmentor: mIoU, mAcc, aAcc, IoU of every class.", model=True)
    parser.add_argument("--save_dir", help="folder of the tables and the image (default: the run's, or ./output)")
    _reading(parser, "aug_eval")
    _running(parser)
    return parser


def evaluate_flags(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """The flags of PaddleSeg's tools/val.py."""
    return _parse(evaluate_parser(prog), arguments)


def predict_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of PaddleSeg's tools/predict.py, and ours."""
    parser = _parser(prog, "Label every pixel of images; write overlays, label maps and a legend.", model=True)
    parser.add_argument("--image_path", nargs="+", required=True, help="images, folders, or a text file of paths")
    parser.add_argument("--save_dir", help="folder to write (default: `--opts output=...`, or ./output/result)")
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS,
                        help=f"most pixels of an image that is decoded (default: {MAX_PIXELS}; not PaddleSeg's)")
    parser.add_argument("--device_id", type=int, default=0, help="number of the GPU (default: 0)")
    parser.add_argument("--custom_color", nargs="+", type=int, help="R G B of the first classes, one after the other")
    _reading(parser, "aug_pred")
    _running(parser)
    return parser


def predict_flags(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """The flags of PaddleSeg's tools/predict.py."""
    return _parse(predict_parser(prog), arguments)


def export_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of PaddleSeg's tools/export.py."""
    parser = _parser(prog, "Write a segmentor as a file that runs without our code, checked against it.", model=True)
    parser.add_argument("--save_dir", help="new folder to write (default: `--opts output=...`, or "
                                           "./output/inference_model)")
    parser.add_argument("--format", default="paddle", choices=["paddle", "paddlex", "onnx"],
                        help="static graph, the same for PaddleX, or ONNX opset 17")
    parser.add_argument("--input_shape", nargs=4, type=int, metavar=("BATCH", "3", "HEIGHT", "WIDTH"),
                        help="must be the window's size; any number of windows fits")
    parser.add_argument("--output_op", default="none", choices=["argmax", "softmax", "none"],
                        help="none: logits, which the windows of a large image are averaged by")
    parser.add_argument("--for_fd", action="store_true", help="refused: FastDeploy's layout is PaddleSeg's own")
    return parser


def export_flags(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """The flags of PaddleSeg's tools/export.py."""
    flags = _parse(export_parser(prog), arguments)
    if flags.output_op != "none" or flags.for_fd:
        given = "--for_fd" if flags.for_fd else f"--output_op {flags.output_op}"
        raise ConfigError(f"{given}: this exports logits, which sliding windows need. For that run PaddleSeg's: "
                          "python -m beitv2_seg PADDLESEG/tools/export.py ...")
    return flags


def compare_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of `beitv2 segment compare`."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False, description="Train from a pretrained backbone and "
                                     "from scratch in equal steps; a table and images of both.")
    parser.add_argument("config", help="YAML file, or the name of a packaged one")
    parser.add_argument("--pretrained", required=True, help="pretraining run the one side starts from")
    parser.add_argument("--output", "-o", required=True, help="folder of both runs, the table and the figure")
    parser.add_argument("--images", type=int, default=6, help="images to show (default: 6)")
    parser.add_argument("--iters", type=int, help="iterations of both; the schedule's length follows")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of the YAML")
    return parser


def compare_flags(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """The flags of `beitv2 segment compare`, which PaddleSeg does not have."""
    flags = compare_parser(prog).parse_args(list(arguments))
    if flags.images < 1:
        raise ConfigError(f"--images {flags.images}: expected at least 1.")
    return flags


#: `beitv2 segment X` -> the flags it reads, also for the completion of shells
PARSERS: dict[str, Callable[[str], argparse.ArgumentParser]] = {
    "train": train_parser, "evaluate": evaluate_parser, "predict": predict_parser, "export": export_parser,
    "compare": compare_parser,
}


def _parser(prog: str, description: str, *, model: bool = False) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--config", required=not model,
                        help="YAML file, or the name of a packaged one" + (" (a run knows its own)" if model else ""))
    if model:
        parser.add_argument("--model_path", required=True, help="run folder, .pdckpt, .pdparams or exported folder")
    parser.add_argument("--device", help="cpu, gpu, gpu:1 ... (default: gpu where Paddle has one)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of the YAML")
    return parser


def _reading(parser: argparse.ArgumentParser, augmented: str) -> None:
    """How images are read; flags that are not given leave test_config unchanged."""
    parser.add_argument(f"--{augmented}", dest="aug_eval", action="store_true", default=None,
                        help="several scales and mirrored images")
    parser.add_argument("--scales", nargs="+", type=float, help="scales, e.g. 0.75 1.0 1.25")
    parser.add_argument("--flip_horizontal", action="store_true", default=None, help="also mirrored left to right")
    parser.add_argument("--flip_vertical", action="store_true", default=None, help="also upside down")
    parser.add_argument("--is_slide", action="store_true", default=None, help="sliding windows")
    parser.add_argument("--crop_size", nargs=2, type=int, metavar=("WIDTH", "HEIGHT"), help="of a window, pixels")
    parser.add_argument("--stride", nargs=2, type=int, metavar=("WIDTH", "HEIGHT"), help="between windows, pixels")
    parser.add_argument("--window_weights", choices=["uniform", "gaussian"],
                        help="of a window's pixels in the mean over windows (not PaddleSeg's)")
    parser.add_argument("--use_multilabel", action="store_true", help="refused: one class a pixel")
    parser.add_argument("--data_format", default="NCHW", choices=["NCHW", "NHWC"], help="NCHW; NHWC is refused")
    parser.add_argument("--num_workers", "--num-workers", type=int,
                        help="processes that read images, 0: this one does; default: one per processor core; does not "
                             "change the result")
    parser.add_argument("--windows", type=int, default=4, help="sliding windows computed together (default: 4)")


def _running(parser: argparse.ArgumentParser) -> None:
    """What computes the model, and in which numbers."""
    parser.add_argument("--runtime", help=f"{RUNTIME_HELP} (not PaddleSeg's)")
    parser.add_argument("--precision", default="f32", help=f"{PRECISION_HELP} (default: f32; not PaddleSeg's)")


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    flags = parser.parse_args(list(arguments))
    if getattr(flags, "use_multilabel", False):
        raise ConfigError("--use_multilabel: this model gives one class a pixel. Leave the flag out.")
    if getattr(flags, "data_format", "NCHW") == "NHWC":
        raise ConfigError("--data_format NHWC: a vision transformer has no such layout (nor has PaddleSeg, but for "
                          "DeepLabV3P). Leave the flag out.")
    if (getattr(flags, "num_workers", None) or 0) < 0:
        raise ConfigError(f"--num_workers {flags.num_workers}: expected 0 or more processes.")
    return flags


def _refuse(flags: argparse.Namespace) -> None:
    """ConfigError for flags of tools/train.py that would be silently without effect, or break a promise."""
    if flags.to_static_training:
        raise ConfigError("--to_static_training: Paddle (2.6.2 and 3.3.1 tried) cannot turn this model's training "
                          "forward into a static graph. Leave the flag out; trained models export as graphs.")
    if flags.amp_level == "O2":
        raise ConfigError("--amp_level O2: weights would be kept in half precision, and a resumed run would not equal "
                          "the uninterrupted one. Use O1.")
