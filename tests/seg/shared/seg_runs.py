# SPDX-License-Identifier: Apache-2.0
"""What the segmentation tests share: a small ADE20K, short settings, and the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from beitv2_core.cli import app
from beitv2_core.data import DigitScenes

TINY = ["model.channels=8", "model.aux_channels=4", "model.backbone.width=12", "model.backbone.num_heads=2",
        "model.backbone.pretrained=null"]
DIGITS = [*TINY, "train_dataset.size=24", "val_dataset.size=5", "lr_scheduler.warmup=2", "batch_size=4"]
ADE = [*TINY, "model.backbone.depth=4", "model.backbone.out_indices=[0, 1, 2, 3]", "model.backbone.size=null",
       "lr_scheduler.warmup=2"]


def write_ade20k(root: Path, *, images: int = 3, part: str = "validation", size: tuple[int, int] = (70, 90)) -> Path:
    """Images and annotations as ADE20K's release has them: labels 0 (other) and 1 .. 10."""
    for kind in ("images", "annotations"):
        (root / kind / part).mkdir(parents=True, exist_ok=True)
    scenes = DigitScenes("train", size=images, image_size=96, digits=(2, 3))
    for index in range(images):
        scene = scenes.load(index)
        name = f"ADE_val_{index:08d}"
        scene.image.resize(size[::-1]).save(root / "images" / part / f"{name}.jpg", quality=95)
        label = Image.fromarray(np.asarray(scene.mask)).resize(size[::-1], Image.Resampling.NEAREST)
        label.save(root / "annotations" / part / f"{name}.png")
    return root


def segment(*arguments: object, code: int = 0) -> str:
    """The output of `beitv2 segment ARGUMENTS`, which must end with `code`."""
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def train(folder: Path, *more: object, opts: list[str] | None = None, code: int = 0) -> str:
    """A short training on the embedded images."""
    return segment("train", "--config", "digit_scenes", "--device", "cpu", "--save_dir", folder, "--iters", 6,
                   "--save_interval", 2, "--log_iters", 1, *more, "--opts", *DIGITS, *(opts or []), code=code)
