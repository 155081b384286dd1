# SPDX-License-Identifier: Apache-2.0
"""From one labelled sample to the batch fine-tuning reads, with timm's augmentation in timm's order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..rng import SampleRng
from ..sources.sample import Sample
from .augment import RandAugment, RandomErasing, erase
from .colour import ColorJitter
from .transforms import (
    IMAGENET_MEAN,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Size,
    normalise,
    to_unit_floats,
)


class TrainBatch(NamedTuple):
    """images: float32 (B, 3, H, W), ImageNet-normalised; labels: int64 (B,); paths: B strings."""

    images: np.ndarray
    labels: np.ndarray
    paths: list[str]


class ClassTrainTransform:
    """Crop, flip, RandAugment (or colour jitter where there is no policy), normalise, erase.

    image_size: pixels; scale: area of the crop; policy: timm's RandAugment string or None; jitter: strength of the
    colour jitter, used only without a policy, as timm does; erase_prob, erase_count: random erasing; draft: images
    may be decoded smaller, `shrink(full size, rng)` says how much.
    Gives {"image": uint8 (H, W, 3), "label", "path", "boxes" (erase_count, 4), "noise": seed}; the noise is drawn once
    the batch is normalised.  Source: timm transforms_factory.py, transforms_imagenet_train, as the official
    datasets.py, build_transform calls it.
    Departs: the flip draws from the sample's python generator; torchvision draws it from torch's.
    """

    def __init__(self, image_size: Size, *, scale: tuple[float, float] = (0.08, 1.0), interpolation: str = "bicubic",
                 flip: float = 0.5, policy: str | None = "rand-m9-mstd0.5-inc1", jitter: float = 0.0,
                 erase_prob: float = 0.25, erase_count: int = 1, draft: bool = False) -> None:
        self.crop = RandomResizedCrop(image_size, scale=scale, interpolation=interpolation)
        self.flip = RandomHorizontalFlip(flip)
        red, green, blue = (min(255, round(255 * mean)) for mean in IMAGENET_MEAN)
        self.augment = (RandAugment(policy, fill=(red, green, blue), interpolation=interpolation) if policy else None)
        self.jitter = ColorJitter(jitter, jitter, jitter) if jitter and not policy else None
        self.shrink = self._shrink if draft else None
        self.erasing = RandomErasing(erase_prob, max_count=erase_count)

    def __call__(self, sample: Sample, rng: SampleRng) -> dict[str, Any]:
        """Augment one sample."""
        image = self.flip(self.crop.read_sample(sample, rng)[0], rng)
        if self.augment is not None:
            image = self.augment(image, rng)
        elif self.jitter is not None:
            image = self.jitter(image, rng)
        boxes = np.zeros((self.erasing.max_count, 4), dtype=np.int64)
        drawn = self.erasing(image.height, image.width, rng)
        boxes[: len(drawn)] = drawn
        noise = rng.python.getrandbits(32)
        label = -1 if sample.label is None else sample.label
        return {"image": np.asarray(image), "label": label, "path": sample.path, "boxes": boxes, "noise": noise}

    def _shrink(self, size: tuple[int, int], rng: SampleRng) -> int:
        return self.crop.reduction(self.crop.draw(*size, rng))

    def batch(self, stacked: dict[str, Any]) -> TrainBatch:
        """Turn the stacked samples into normalised floats and erase."""
        images = normalise(to_unit_floats(stacked["image"]))
        for image, boxes, seed in zip(images, stacked["boxes"], stacked["noise"]):
            erase(image, boxes, np.random.RandomState(int(seed)))
        return TrainBatch(images, stacked["label"], stacked["path"])
