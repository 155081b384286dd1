# SPDX-License-Identifier: Apache-2.0
"""Changes of brightness, contrast and saturation, of a whole image or of the part that a crop will keep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...errors import ConfigError
from ..rng import SampleRng

Change = tuple[str, float]  # name of a change, its factor
_EVERY_LEVEL = Image.frombytes("L", (256, 1), bytes(range(256)))


class ColorJitter:
    """Change brightness, contrast and saturation by factors in [1 - x, 1 + x], in random order; no hue.

    Pixel for pixel what torchvision's Pillow backend (`ImageEnhance`) computes.
    Source: official `datasets.py: DataAugmentationForBEiT` (hard-coded 0.4, 0.4, 0.4).
    Departs: factors and order come from the sample's python generator; torchvision draws them from torch's.
    """

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4) -> None:
        self.ranges = {}
        for name, amount in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if amount < 0:
                raise ConfigError(f"ColorJitter: {name} is {amount}, expected a number of at least 0.")
            self.ranges[name] = (max(0.0, 1 - amount), 1 + amount)

    def draw(self, rng: SampleRng) -> list[Change]:
        """Order and factors of one image's changes."""
        names = [name for name, bounds in self.ranges.items() if bounds != (1.0, 1.0)]
        rng.python.shuffle(names)
        return [(name, rng.python.uniform(*self.ranges[name])) for name in names]

    def __call__(self, image: Image.Image, rng: SampleRng) -> Image.Image:
        """Return the recoloured RGB image."""
        return recolour(image, self.draw(rng))


def recolour(
    image: Image.Image, changes: Sequence[Change], box: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """An RGB image after the changes, in order; with a box (left, top, right, bottom), that part of it.

    The part has the very pixels it has in the whole recoloured image: outside the box only what precedes a contrast
    is computed, because contrast needs the mean of the whole image.
    """
    if box is not None and not (0 <= box[0] < box[2] <= image.width and 0 <= box[1] < box[3] <= image.height):
        return recolour(image, changes).crop(box)  # black outside the image, whatever the changes
    last_mean = max((place for place, (name, _) in enumerate(changes) if name == "contrast"), default=0)
    for name, factor in changes[:last_mean]:
        image = CHANGES[name](image, factor)
    rest = changes[last_mean:]
    mean = mean_grey(image) if rest and rest[0][0] == "contrast" else 0
    if box is not None:
        image = image.crop(box)
    table = None  # changes of single levels, not yet made
    for name, factor in rest:
        if name == "saturation":
            image, table = adjust_saturation(image if table is None else _look_up(image, table), factor), None
        else:
            levels = blended_levels(mean if name == "contrast" else 0, factor)
            table = levels if table is None else table.translate(levels)
    return image if table is None else _look_up(image, table)


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black: factor 0 is black, 1 the image."""
    return _look_up(image, blended_levels(0, factor))


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the rounded mean grey of the whole image: factor 0 is flat grey, 1 the image."""
    return _look_up(image, blended_levels(mean_grey(image), factor))


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the grey image: factor 0 is grey, 1 the image."""
    grey = image.convert("L")
    return Image.blend(Image.merge("RGB", (grey, grey, grey)), image, factor)


CHANGES = {"brightness": adjust_brightness, "contrast": adjust_contrast, "saturation": adjust_saturation}


def mean_grey(image: Image.Image) -> int:
    """The rounded mean of the grey image, 0 .. 255."""
    grey = np.asarray(image.convert("L"))
    return int(int(grey.sum(dtype=np.int64)) / grey.size + 0.5)


def blended_levels(base: int, factor: float) -> bytes:
    """What each of the 256 levels becomes when Pillow blends it with `base`: its own arithmetic, done once a level."""
    return Image.blend(Image.new("L", _EVERY_LEVEL.size, base), _EVERY_LEVEL, factor).tobytes()


def _look_up(image: Image.Image, table: bytes) -> Image.Image:
    return image.point(list(table) * 3)
