# SPDX-License-Identifier: Apache-2.0
"""Small models to export, and the forms in which they can be here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import paddle
import pytest

from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.models.vqkd import VQKD

missing = [name for name in ("paddle2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
reason = f"not installed: {', '.join(missing)}" if missing else "paddle2onnx needs Paddle 3"
needs_onnx = pytest.mark.skipif(bool(missing) or paddle.__version__.startswith("2."), reason=reason)
FORMS = ["paddle", pytest.param("onnx", marks=needs_onnx)]
TRUNK = dict(patch_size=8, width=24, depth=2, num_heads=2)

#: put in front of a script: importing Paddle fails as where it is not installed
NO_PADDLE = """
import sys

class NoPaddle:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("paddle", "paddle2onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPaddle())
"""


def without_paddle(arguments: list[str]) -> list[str]:
    """The command that runs `beitv2` with these arguments in a process that has no Paddle."""
    script = f"{NO_PADDLE}\nfrom beitv2_core.cli import app\napp({arguments!r})\nassert 'paddle' not in sys.modules"
    return [sys.executable, "-c", script]


def tokenizer(image_size=(32, 24)) -> VQKD:
    paddle.seed(0)
    grid = (image_size[0] // 8, image_size[1] // 8)
    encoder = BEiTBackbone(image_size=image_size, use_abs_pos_emb=True, norm="pool", **TRUNK)
    decoder = BEiTBackbone(image_size=grid, in_chans=8, use_abs_pos_emb=True, norm="pool", **{**TRUNK, "patch_size": 1})
    model = VQKD(encoder, decoder, num_codes=64, code_dim=8, teacher_width=16, kmeans_init=False)
    model.eval()
    return model


def student(image_size=(32, 24)) -> BEiTForMaskedImageModeling:
    paddle.seed(0)
    model = BEiTForMaskedImageModeling(num_codes=16, early_layers=1, head_layers=1, image_size=image_size,
                                       use_shared_rel_pos_bias=True, init_values=0.1, **TRUNK)
    model.eval()
    return model


def left_over(folder: Path) -> list[str]:
    """Names in a folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())
