# SPDX-License-Identifier: Apache-2.0
"""Entry points of Paddle's hub: `paddle.hub.load(THIS_FOLDER, "beitv2", source="local", weights=RUN_OR_FILE)`.

The packages of this checkout are used where none are installed; answers of classifiers and segmentors come from
beitv2-cls and beitv2-seg, which must be installed.  Import `beitv2_core` before `paddle`: it sets threads.
"""

import importlib.util as _importlib_util
import sys as _sys
from pathlib import Path as _Path

#: what has to be installed, as Paddle's hub checks it
dependencies = ["paddle", "numpy", "scipy", "pydantic", "yaml", "PIL", "safetensors", "pooch"]

for _package in ("beitv2_core", "beitv2_cls", "beitv2_seg"):
    if _importlib_util.find_spec(_package) is None:
        _sys.path.append(str(_Path(__file__).resolve().parent / "packages" / _package.replace("_", "-") / "src"))


def beitv2(weights, **options):
    """A trained model in eval mode with its preprocessing: `model(images)`, `model.features(images)`.

    weights: a run, a checkpoint, a file of weights in any known format, a folder of transformers, an exported model, or
    the name of a published model that `beitv2 download` has fetched.  options: others of `beitv2_core.load`.
    """
    from beitv2_core import load

    return load(weights, **options)


def beitv2_backbone(size="base", image_size=224, **options):
    """An untrained backbone, a `paddle.nn.Layer`: images (B, 3, H, W) to features (B, width).

    size: tiny, small, base, large or huge, with the relative positions and layer scale of the paper's fine-tuning.
    options: other arguments of `beitv2_core.BEiTBackbone`.
    """
    from beitv2_core import BEiTBackbone
    from beitv2_core.errors import ConfigError
    from beitv2_core.models.backbone import SIZES

    if size not in SIZES:
        raise ConfigError(f"size is {size!r}; expected one of {', '.join(SIZES)}.")
    usual = {"use_rel_pos_bias": True, "init_values": 0.1, "norm": "pool"}
    return BEiTBackbone(image_size=image_size, **{**SIZES[size], **usual, **options})
