# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from ..api.arguments import live_model as live_model
from ..api.arguments import workers as workers

CONFIG = typer.Argument(..., help="YAML file, see configs/", show_default=False)
MORE = typer.Argument(None, metavar="[KEY=VALUE]...", help="more settings, as after --set", show_default=False)
SET = typer.Option(
    None, "--set", metavar="KEY=VALUE", help="change a setting, e.g. --set optim.lr=1e-3 train.batch_size=64"
)
TOKENIZER = typer.Option(
    ..., "--tokenizer", "-t",
    help="tokenizer run folder, .pdckpt checkpoint, exported folder or file of published weights",
)
NAME = typer.Option(
    None, "--name", help="published tokenizer that a weights file must be (default: recognised from the file), "
                         "e.g. vqkd_encoder_base_decoder_3x768x12_clip"
)
MODEL = typer.Option(
    ..., "--model", "-m", help="run folder, .pdckpt checkpoint, file of weights in any known format, exported folder, "
                               "or the name of a downloaded published model", show_default=False
)
IMAGE_SIZE = typer.Option(
    None, "--image-size", metavar="HEIGHT WIDTH", help="pixels that images are cut to, multiples of the patch; "
                                                       "position tables are resized; default: what the model was made "
                                                       "for"
)
CROP_SHARE = typer.Option(
    None, "--crop-share", min=0.1, max=1.0, help="share of the short side that the central crop keeps; default: 0.875, "
                                                 "of tokenizers 1, of exported models their own"
)
BATCH = typer.Option(16, "--batch-size", "-b", min=1, help="images per batch; does not change the result")
MAX_PIXELS = typer.Option(
    None, "--max-pixels", min=1, help="refuse image files of more pixels; default: the run's data.max_pixels"
)
WORKERS = typer.Option(
    None, "--num-workers", min=0, help="processes that decode images, 0: this one decodes; default: one per processor "
                                       "core; does not change the result"
)
CALIBRATE = typer.Option(
    None, "--calibrate", help="images, like those the model will see, that int8 takes its ranges from; as many others "
                              "of them are what its agreement is measured on"
)
CALIBRATION_IMAGES = typer.Option(128, "--calibration-images", min=1, help="most images that calibrate")
RUNTIME_HELP = ("what runs an exported model: onnxruntime (the default of ONNX folders) or openvino "
                "(pip install 'beitv2-core[openvino]')")
PRECISION_HELP = ("f32; bf16 on processors with bfloat16 units (exported models: by OpenVINO); int8 of a model that "
                  "was exported with --quantize int8 (by OpenVINO)")
RUNTIME = typer.Option(None, "--runtime", help=RUNTIME_HELP)
PRECISION = typer.Option("f32", "--precision", help=PRECISION_HELP)
VERIFY_EVERY = typer.Option(
    None, "--verify-every", min=0, metavar="STEPS", show_default=False,
    help="compute every so many steps one twice and compare them bit for bit (train.verify_every); default: none"
)


def verified(every: Optional[int], *stages: str) -> list[str]:
    """The settings of --verify-every; stages: beginnings of the keys, for a run of several."""
    return [] if every is None else [f"{stage}train.verify_every={every}" for stage in stages or ("",)]


def all_overrides(first: Optional[list[str]], more: Optional[list[str]], output: Optional[Path] = None) -> list[str]:
    """The settings after --set, those that follow without it, and --output."""
    overrides = [*(first or []), *(more or [])]
    if output is not None:
        overrides.append(f"output={str(output)!r}")
    return overrides
