# SPDX-License-Identifier: Apache-2.0
"""Small grey pictures of whole images, beside their features: what duplicates are looked for with."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np
from PIL import Image

from ..data import EvalTransform, Sample, SampleRng

#: rows and columns of a thumbnail, whatever the image's shape
SIDE = 32


class EmbedBatch(NamedTuple):
    """Images float32 (B, 3, H, W) in [0, 1]; thumbnails uint8 (B, SIDE, SIDE); sizes int32 (B, 2), height first."""

    images: np.ndarray
    thumbnails: np.ndarray
    sizes: np.ndarray


class EmbedTransform:
    """The central crop that a model sees, and the thumbnail and size of the whole image."""

    def __init__(self, cut: EvalTransform) -> None:
        self.cut = cut

    def __call__(self, sample: Sample, rng: Optional[SampleRng] = None) -> dict[str, Any]:
        """Crop one sample."""
        return {"image": self.cut(sample)["image"], "thumbnail": thumbnail_of(sample.image),
                "size": np.asarray([sample.image.height, sample.image.width], dtype=np.int32)}

    def batch(self, stacked: dict[str, Any]) -> EmbedBatch:
        """Turn the stacked samples into floats."""
        images = self.cut.batch({"image": stacked["image"], "label": None, "path": []}).images
        return EmbedBatch(images, stacked["thumbnail"], stacked["size"])


class ThumbnailTransform:
    """The thumbnail of the whole image alone, {"thumbnail", "size"}; side: its rows and columns."""

    def __init__(self, side: int = SIDE) -> None:
        self.side = side

    def __call__(self, sample: Sample, rng: Optional[SampleRng] = None) -> dict[str, Any]:
        """Shrink one sample."""
        return {"thumbnail": thumbnail_of(sample.image, self.side),
                "size": np.asarray([sample.image.height, sample.image.width], dtype=np.int32)}


def thumbnail_of(image: Image.Image, side: int = SIDE) -> np.ndarray:
    """uint8 (side, side): the mean grey of every part of an RGB image; a smaller image is enlarged."""
    smaller = image.width < side or image.height < side
    how = Image.Resampling.BICUBIC if smaller else Image.Resampling.BOX
    return np.asarray(image.convert("L").resize((side, side), how))
