# SPDX-License-Identifier: Apache-2.0
"""`preprocessor_config.json`: how the images of a model are cut and scaled, as transformers' folders say it.

The class named there is CLIP's, which resizes the short side and cuts the centre out, as the official evaluation does
(BEiT's own stretches images).  What transformers has no word for stands under the key `beitv2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from beitv2_core.errors import CheckpointError
from beitv2_core.files.json_text import parse_json

FILE = "preprocessor_config.json"
OWN = "beitv2"
_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL's numbers


def preprocessor_config(image_size: tuple[int, int], *, crop_share: float, interpolation: str = "bicubic",
                        mean: Optional[Sequence[float]] = None, std: Optional[Sequence[float]] = None,
                        own: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """The file's content for images of (height, width); mean and std: of images in [0, 1], None: they stay as they are.

    own: more of ours, beside crop_share and interpolation.
    """
    height, width = image_size
    config = {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True,
        "size": {"shortest_edge": int(min(height, width) / crop_share)}, "resample": _RESAMPLE[interpolation],
        "do_center_crop": True, "crop_size": {"height": height, "width": width}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": mean is not None,
    }
    if mean is not None and std is not None:
        config.update(image_mean=list(mean), image_std=list(std))
    return {**config, OWN: {"crop_share": crop_share, "interpolation": interpolation, **(own or {})}}


def own_preprocessing(folder: Path) -> dict[str, Any]:
    """What we wrote under `beitv2` into a folder's file; empty where there is none.

    Raises CheckpointError for a file that cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        own = found.get(OWN, {})
        return {**own, "crop_share": float(own["crop_share"])} if own else {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Copy the folder again.") from None
