# SPDX-License-Identifier: Apache-2.0
"""Crops and flips of Pillow images, and their way to floats, as torchvision 0.8.2 and the official code do them.

Every transform takes its random numbers from the `SampleRng` it is given and returns a new image.
"""

from __future__ import annotations

import math
import random
from typing import Union

import numpy as np
from PIL import Image

from ...errors import ConfigError
from ...pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from ...pixels.size import pair
from ..rng import SampleRng
from ..sources.sample import Sample

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
}
CROP_ATTEMPTS = 10

Box = tuple[int, int, int, int]
Inner = tuple[float, float, float, float]
Size = Union[int, tuple[int, int]]


def find_interpolation(name: str) -> Image.Resampling:
    """Return Pillow's filter of that name; ConfigError lists the names."""
    try:
        return INTERPOLATIONS[name]
    except KeyError:
        raise ConfigError(f"interpolation is {name!r}, expected one of {', '.join(INTERPOLATIONS)}.") from None


def draw_crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: random.Random
) -> Box:
    """Draw (top, left, height, width) of a crop with `scale` of the area and `ratio` width / height.

    Ten tries; then the central crop nearest to the given ratios.
    Source: official `transforms.py: RandomResizedCropAndInterpolationWithTwoPic.get_params`, equal draw by draw.
    """
    area = width * height
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(CROP_ATTEMPTS):
        target = rng.uniform(*scale) * area
        aspect = math.exp(rng.uniform(*log_ratio))
        w = int(round(math.sqrt(target * aspect)))
        h = int(round(math.sqrt(target / aspect)))
        if w <= width and h <= height:
            top = rng.randint(0, height - h)
            left = rng.randint(0, width - w)
            return top, left, h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w, h = width, int(round(width / min(ratio)))
    elif in_ratio > max(ratio):
        w, h = int(round(height * max(ratio))), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def edges(box: Box) -> Box:
    """(left, top, right, bottom) of a box (top, left, height, width), as Pillow takes it."""
    top, left, h, w = box
    # A thin image can give a crop of no rows or columns (the official code fails there); one is the least.
    return left, top, left + max(w, 1), top + max(h, 1)


def reduced(outline: Box, reduction: int) -> tuple[Box, Inner | None]:
    """The place of edges in an image decoded `reduction` times smaller: whole pixels, and the exact place in them.

    The second is None where nothing was reduced: then the pixels are the place.
    """
    if reduction == 1:
        return outline, None
    left, top, right, bottom = (edge / reduction for edge in outline)
    outer = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    return outer, (left - outer[0], top - outer[1], right - outer[0], bottom - outer[1])


class TwoViewCrop:
    """One random crop of the image, read at two sizes: (first view, second view).

    size, second_size: pixels, int or (height, width); second_size None gives (view, None). When both views have the
    same size and filter the crop is resized once and the same image is returned twice.
    Source: official `transforms.py: RandomResizedCropAndInterpolationWithTwoPic`.
    """

    def __init__(
        self,
        size: Size,
        second_size: Size | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
        second_interpolation: str = "bicubic",
    ) -> None:
        self.size = pair(size)
        self.second_size = None if second_size is None else pair(second_size)
        self.scale = check_range("crop scale", scale)
        self.ratio = check_range("crop ratio", ratio)
        self.filter = find_interpolation(interpolation)
        self.second_filter = find_interpolation(second_interpolation)

    def draw(self, width: int, height: int, rng: SampleRng) -> Box:
        """The box (top, left, height, width) in an image of that size."""
        return draw_crop_box(width, height, self.scale, self.ratio, rng.python)

    def reduction(self, box: Box) -> int:
        """How much smaller an image may be decoded so that the box still covers both views: 8, 4, 2 or 1."""
        sizes = [self.size, *([] if self.second_size is None else [self.second_size])]
        least = min(min(box[2] // height, box[3] // width) for height, width in sizes)
        return next((factor for factor in (8, 4, 2) if factor <= least), 1)

    def read_sample(self, sample: Sample, rng: SampleRng) -> tuple[Image.Image, Image.Image | None]:
        """Both views of one crop of a sample, which may have been decoded smaller."""
        box = self.draw(*(sample.full_size or sample.image.size), rng)
        outer, inner = reduced(edges(box), sample.reduction)
        return self.read(sample.image.crop(outer), inner)

    def read(self, part: Image.Image, inner: Inner | None = None) -> tuple[Image.Image, Image.Image | None]:
        """Both views of a part that was cut out, or of the place `inner` in it; nothing outside the part is read."""
        first = _resized(part, self.size, self.filter, inner)
        if self.second_size is None:
            return first, None
        if self.second_size == self.size and self.second_filter == self.filter:
            return first, first
        return first, _resized(part, self.second_size, self.second_filter, inner)

    def __call__(self, image: Image.Image, rng: SampleRng) -> tuple[Image.Image, Image.Image | None]:
        """Return both views of one crop."""
        return self.read(image.crop(edges(self.draw(image.width, image.height, rng))))


def _resized(
    image: Image.Image, size: tuple[int, int], chosen: Image.Resampling, inner: Inner | None
) -> Image.Image:
    return image.resize((size[1], size[0]), chosen, box=inner)


class RandomResizedCrop(TwoViewCrop):
    """One random crop, resized to `size` (torchvision `RandomResizedCrop`); returns the image alone."""

    def __init__(
        self,
        size: Size,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__(size, None, scale, ratio, interpolation)

    def __call__(self, image: Image.Image, rng: SampleRng) -> Image.Image:  # type: ignore[override]
        """Return the resized crop."""
        return super().__call__(image, rng)[0]


class RandomHorizontalFlip:
    """Mirror the image left to right with probability `prob`."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def draw(self, rng: SampleRng) -> bool:
        """Whether to mirror; always consumes one draw."""
        return rng.python.random() < self.prob

    def __call__(self, image: Image.Image, rng: SampleRng) -> Image.Image:
        """Return the image or its mirror image."""
        return mirrored(image) if self.draw(rng) else image


def mirrored(image: Image.Image) -> Image.Image:
    """The image mirrored left to right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def resized_short_side(width: int, height: int, size: int) -> tuple[int, int]:
    """Return (width, height) with the short side `size` and the long side rounded down (torchvision `Resize(int)`)."""
    if width < height:
        return size, int(size * height / width)
    return int(size * width / height), size


class EvalCrop:
    """Resize the short side to int(size / crop_share) and cut the centre out: no randomness.

    size: pixels, int or (height, width). Offsets are rounded half to even, as torchvision 0.8.2 does.
    Source: official `datasets.py: build_transform` (crop_pct 224 / 256 = 0.875).
    Departs: a non-square size, which the official code never has, is cut from the smallest image that covers it.
    """

    def __init__(self, size: Size, crop_share: float = 0.875, interpolation: str = "bicubic") -> None:
        if not 0 < crop_share <= 1:
            raise ConfigError(f"EvalCrop: crop_share is {crop_share}, expected a number in (0, 1].")
        self.size = pair(size)
        self.crop_share = crop_share
        self.filter = find_interpolation(interpolation)

    def __call__(self, image: Image.Image, rng: SampleRng | None = None) -> Image.Image:
        """Return the central crop; `rng` is not used."""
        height, width = self.size
        resized, left, top = self._place(image.width, image.height)
        if resized != image.size:
            image = image.resize(resized, self.filter)
        return image.crop((left, top, left + width, top + height))

    def region(self, full_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what the crop shows of an image of `full_size` (width, height) pixels."""
        height, width = self.size
        resized, left, top = self._place(*full_size)
        across, down = full_size[0] / resized[0], full_size[1] / resized[1]
        return left * across, top * down, (left + width) * across, (top + height) * down

    def _place(self, full_width: int, full_height: int) -> tuple[tuple[int, int], int, int]:
        """(width, height) the image is resized to, and left and top of the crop in it."""
        height, width = self.size
        if height == width:
            resized = resized_short_side(full_width, full_height, int(height / self.crop_share))
        else:
            factor = max(height / self.crop_share / full_height, width / self.crop_share / full_width)
            resized = (max(width, int(full_width * factor)), max(height, int(full_height * factor)))
        return resized, int(round((resized[0] - width) / 2.0)), int(round((resized[1] - height) / 2.0))


def check_range(what: str, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the bounds as two floats; ConfigError when they are not 0 < low <= high."""
    low, high = float(bounds[0]), float(bounds[1])
    if not 0 < low <= high:
        raise ConfigError(f"{what} is ({low}, {high}), expected 0 < low <= high.")
    return low, high


def to_unit_floats(images: np.ndarray) -> np.ndarray:
    """uint8 (..., H, W, 3) -> float32 (..., 3, H, W) in [0, 1] (torchvision `ToTensor`)."""
    floats = np.ascontiguousarray(np.moveaxis(images, -1, -3), dtype=np.float32)
    floats /= np.float32(255)
    return floats


def normalise(
    floats: np.ndarray, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> np.ndarray:
    """float32 (..., 3, H, W) in [0, 1] -> (x - mean) / std per channel, as a new array (torchvision `Normalize`)."""
    means, stds = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (mean, std))
    result = np.empty(floats.shape, dtype=np.result_type(floats, np.float32))
    for place in np.ndindex(floats.shape[:-3]):  # an image stays in the cache between the two passes
        np.subtract(floats[place], means, out=result[place])
        result[place] /= stds
    return result
