# SPDX-License-Identifier: Apache-2.0
"""Images to try exported models on: drawn ones, and files read as the model's description says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data import ImageFiles, Reading, eval_batches
from ..data.views.transforms import normalise


def drawn_image(facts: Mapping[str, Any], seed: int) -> np.ndarray:
    """An image (1, 3, H, W) after mean and std: coloured squares under noise.  facts: as `Exportable.facts`."""
    height, width = facts["image_size"]
    rng = np.random.default_rng(seed)
    squares = np.kron(rng.random((3, 8, 8)), np.ones((1, -(-height // 8), -(-width // 8))))[:, :height, :width]
    image = (0.8 * squares + 0.2 * rng.random((3, height, width))).astype(np.float32)[None]
    return _normalised(facts, image)


def images_of_files(facts: Mapping[str, Any], paths: Sequence[str]) -> np.ndarray:
    """Central crops (B, 3, H, W) of image files after mean and std, read and cut as `facts` say."""
    reading = Reading(upright=bool(facts.get("exif_orientation")))
    batches = eval_batches(ImageFiles(paths, reading), facts["image_size"], crop_share=facts["crop_share"],
                           interpolation=facts.get("interpolation", "bicubic"))
    return _normalised(facts, np.concatenate([batch.images for batch in batches]))


def _normalised(facts: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    mean, std = facts.get("mean"), facts.get("std")
    return images if mean is None or std is None else normalise(images, mean, std)
