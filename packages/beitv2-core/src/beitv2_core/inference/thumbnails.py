# SPDX-License-Identifier: Apache-2.0
"""Small pictures of whole images, beside their features: what duplicates are looked for with."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np
from PIL import Image

from ..data import EvalTransform, Sample, SampleRng

#: rows and columns of a thumbnail, whatever the image's shape
SIDE = 16


class EmbedBatch(NamedTuple):
    """Images float32 (B, 3, H, W) in [0, 1]; thumbnails uint8 (B, SIDE, SIDE, 3); sizes int32 (B, 2), height first."""

    images: np.ndarray
    thumbnails: np.ndarray
    sizes: np.ndarray


class EmbedTransform:
    """The central crop that a model sees, and the thumbnail and size of the whole image."""

    def __init__(self, cut: EvalTransform) -> None:
        self.cut = cut

    def __call__(self, sample: Sample, rng: Optional[SampleRng] = None) -> dict[str, Any]:
        """Crop one sample."""
        thumbnail = sample.image.resize((SIDE, SIDE), Image.Resampling.BOX)
        return {"image": self.cut(sample)["image"], "thumbnail": np.asarray(thumbnail),
                "size": np.asarray([sample.image.height, sample.image.width], dtype=np.int32)}

    def batch(self, stacked: dict[str, Any]) -> EmbedBatch:
        """Turn the stacked samples into floats."""
        images = self.cut.batch({"image": stacked["image"], "label": None, "path": []}).images
        return EmbedBatch(images, stacked["thumbnail"], stacked["size"])
