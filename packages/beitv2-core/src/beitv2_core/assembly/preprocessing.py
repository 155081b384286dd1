# SPDX-License-Identifier: Apache-2.0
"""How the images of a trained model are cut before it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..weights.preprocessor import own_preprocessing
from .loaded_weights import checkpoint_folder
from .restore import read_config


class Preprocessing(NamedTuple):
    """crop_share: share of the short side that the central crop keeps; upright: turned as EXIF data say; own: what a
    saved folder holds of ours."""

    crop_share: float
    upright: bool
    own: dict[str, Any]


def preprocessing_of(source: str, kind: str, image_size: tuple[int, int]) -> Preprocessing:
    """Of a saved folder what is written in it, of a run its settings, else how the published models are measured.

    Source: official datasets.py, build_transform: 224/256 below 384 pixels, the whole image from there on; of
    tokenizers the whole image.
    """
    path = Path(source)
    own = own_preprocessing(path) if path.is_dir() else {}
    if own:
        return Preprocessing(own["crop_share"], bool(own.get("exif_orientation", False)), own)
    config = read_config(source) if path.exists() and checkpoint_folder(path) is not None else None
    upright = bool(getattr(getattr(config, "data", None), "exif_orientation", False))
    share = getattr(getattr(config, "validation", None), "crop_share", None)
    if share is None:
        share = 1.0 if kind == "tokenizer" or min(image_size) >= 384 else 0.875
    return Preprocessing(float(share), upright, {})
