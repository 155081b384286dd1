# SPDX-License-Identifier: Apache-2.0
"""The embedded data set: handwritten digits over photographs, drawn on the fly. No files, no download."""

from __future__ import annotations

import colorsys
import random
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import DataError
from ...pixels.size import pair
from ..rng import derive_seed
from .sample import Asked, ImageSource, Sample

SPLITS = ("train", "test")
TEST_SHARE = 0.25
CELLS, MARGIN = 8, 1  # a digit is 8 x 8 cells; a margin lets the strokes fade out instead of being cut
DIM = 0.55  # share of the photograph's contrast that is kept
MIN_CONTRAST = 80.0  # luminance levels between a digit and the mean of its background
CACHE_LIMIT = 512 * 2**20

Resampling = Image.Resampling
_SHARPEN = [min(255, max(0, (level - 64) * 2)) for level in range(256)]
_INSIDE = [255 if level >= 128 else 0 for level in range(256)]
_DARK = [int(level * DIM) for level in range(256)] * 3
_LIGHT = [int(255 * (1 - DIM) + level * DIM) for level in range(256)] * 3


class Sources(NamedTuple):
    """Digits as (10, 10) grey images with their labels, and the photographs' halves of one split."""

    digits: list[Image.Image]
    labels: list[int]
    photographs: list[Image.Image]


@cache
def load_sources(split: str) -> Sources:
    """Read scikit-learn's bundled digits and photographs and keep the part of one split.

    Of the 1,797 digits every class gives a quarter to "test"; of both photographs "train" has the left half and "test"
    the right one.
    """
    from sklearn.datasets import load_digits, load_sample_images  # takes a second to load

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    chosen: list[int] = []
    for digit in range(10):
        of_class = [int(index) for index in order if data.target[index] == digit]
        cut = round(len(of_class) * TEST_SHARE)
        chosen += of_class[:cut] if split == "test" else of_class[cut:]
    chosen.sort()
    grey = np.pad(np.rint(data.images * (255 / 16)).astype(np.uint8), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    halves = []
    for pixels in load_sample_images().images:
        photograph = Image.fromarray(pixels)
        middle = photograph.width // 2
        left = 0 if split == "train" else photograph.width - middle
        half = photograph.crop((left, 0, left + middle, photograph.height))
        halves.append(half)
    return Sources([Image.fromarray(grey[index]) for index in chosen], [int(data.target[i]) for i in chosen], halves)


class DigitScenes(ImageSource):
    """RGB images of handwritten digits, in random size, place and strong colour, over (mostly blurred) photographs.

    split: "train" or "test", with disjoint digits and disjoint halves of the photographs. image_size: pixels, square.
    digits: least and greatest number of digits in an image. digit_scale: height of a digit as a share of the image
    (default 0.75 .. 1.0 for one digit, 0.35 .. 0.6 for several). blurred: share of images with a blurred background.
    size: number of images; each depends on (seed, split, index) only. label: the digit with the most visible pixels;
    mask: uint8 (H, W), read-only, 0 background, 1 .. 10 = digit + 1. cache: keep drawn images (up to 512 MB).
    Raises DataError for an unknown split or impossible numbers.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        size: int = 2000,
        image_size: int = 32,
        seed: int = 0,
        digits: tuple[int, int] = (1, 1),
        digit_scale: tuple[float, float] | None = None,
        blurred: float = 0.85,
        cache: bool = True,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"DigitScenes: split is {split!r}, expected one of {', '.join(SPLITS)}.")
        if size < 1 or image_size < 8 or not 1 <= digits[0] <= digits[1]:
            raise DataError(
                f"DigitScenes: size {size}, image_size {image_size}, digits {tuple(digits)}; expected at least one "
                "image of at least 8 pixels and 1 <= fewest <= most digits."
            )
        self.split = split
        self.size = size
        self.image_size = image_size
        self.seed = seed
        self.digits = (int(digits[0]), int(digits[1]))
        self.digit_scale = digit_scale or ((0.75, 1.0) if digits[1] == 1 else (0.35, 0.6))
        if not 0 < self.digit_scale[0] <= self.digit_scale[1] <= 1:
            raise DataError(f"DigitScenes: digit_scale is {self.digit_scale}, expected 0 < low <= high <= 1.")
        self.blurred = blurred
        self.classes: list[str] | None = [str(digit) for digit in range(10)]
        self.cache = cache and size * image_size * image_size * 4 <= CACHE_LIMIT
        self._drawn: dict[int, tuple[Image.Image, int, np.ndarray]] = {}
        load_sources(split)  # a missing scikit-learn should be reported here, not in a worker

    @classmethod
    def of_settings(cls, data: Any, asked: Asked) -> DigitScenes:
        """Images of the side `data.scene_size`, by default of the model's images."""
        return cls(asked.split, size=asked.size or data.size or 0,
                   image_size=data.scene_size or max(pair(data.image_size)), seed=data.scene_seed,
                   digits=data.scene_digits)

    @classmethod
    def labelled(cls, data: Any) -> bool:
        """Always: the digit."""
        return True

    @classmethod
    def files_of(cls, data: Any) -> set[str]:
        """None: they are drawn."""
        return set()

    def files_read(self) -> set[str]:
        """None: they are drawn."""
        return set()

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"DigitScenes({self.split}, {self.size} images of {self.image_size} px, seed {self.seed})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_drawn": {}}

    def load(self, index: int) -> Sample:
        """Draw image `index`."""
        if not 0 <= index < self.size:
            raise IndexError(f"DigitScenes: image {index} was asked for, there are {self.size}.")
        drawn = self._drawn.get(index)
        if drawn is None:
            drawn = self._draw(random.Random(derive_seed("digit_scenes", self.seed, self.split, index)))
            if self.cache:
                self._drawn[index] = drawn
        image, label, mask = drawn
        return Sample(image.copy(), label, f"digit_scenes/{self.split}/{index:06d}", mask)

    def _draw(self, rng: random.Random) -> tuple[Image.Image, int, np.ndarray]:
        sources = load_sources(self.split)
        image, dark = self._background(rng, sources.photographs)
        ground = luminance(image.resize((1, 1), Resampling.BOX).getpixel((0, 0)))
        mask = Image.new("L", image.size, 0)
        taken: list[tuple[float, float, float]] = []
        label = 0
        for _ in range(rng.randint(*self.digits)):
            which = rng.randrange(len(sources.digits))
            label = sources.labels[which]
            height, left, top = self._place(rng, taken)
            side = max(1, round(height * (CELLS + 2 * MARGIN) / CELLS))
            offset = round(height * MARGIN / CELLS)
            shape = sources.digits[which].resize((side, side), Resampling.BICUBIC).point(_SHARPEN)
            corner = (round(left) - offset, round(top) - offset)
            image.paste(draw_colour(rng, ground, dark), (*corner, corner[0] + side, corner[1] + side), shape)
            mask.paste(label + 1, (*corner, corner[0] + side, corner[1] + side), shape.point(_INSIDE))
        pixels = np.array(mask)
        pixels.flags.writeable = False
        if len(taken) > 1:
            label = int(np.bincount(pixels.reshape(-1), minlength=11)[1:].argmax())
        return image, label, pixels

    def _background(self, rng: random.Random, photographs: list[Image.Image]) -> tuple[Image.Image, bool]:
        photograph = photographs[rng.randrange(len(photographs))]
        side = rng.uniform(0.3, 1.0) * min(photograph.size)
        left = rng.uniform(0, photograph.width - side)
        top = rng.uniform(0, photograph.height - side)
        # Blurring = reading the crop as a few cells and stretching them smoothly; the cost does not grow with the blur.
        cells = rng.choice((3, 4, 6)) if rng.random() < self.blurred else self.image_size
        image = photograph.resize(
            (cells, cells), Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=1.0
        )
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        dark = rng.random() < 0.5
        if cells != self.image_size:
            image = image.resize((self.image_size, self.image_size), Resampling.BICUBIC)
        return image.point(_DARK if dark else _LIGHT), dark

    def _place(self, rng: random.Random, taken: list[tuple[float, float, float]]) -> tuple[float, float, float]:
        for _ in range(10):
            height = rng.uniform(*self.digit_scale) * self.image_size
            left = rng.uniform(0, self.image_size - height)
            top = rng.uniform(0, self.image_size - height)
            # digits are narrower than high, so this much overlap of the squares leaves both readable
            if all(max(abs(left - x), abs(top - y)) >= 0.35 * (height + h) for h, x, y in taken):
                break
        taken.append((height, left, top))
        return height, left, top


def luminance(colour: Any) -> float:
    """Rec. 601 luminance of an RGB colour, 0 .. 255 (the weights of Pillow's `convert("L")`)."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def draw_colour(rng: random.Random, ground: float, dark: bool) -> tuple[int, int, int]:
    """Draw a saturated colour, lightened or darkened to differ from the ground by at least MIN_CONTRAST levels."""
    value = rng.uniform(0.9, 1.0) if dark else rng.uniform(0.25, 0.6)
    colour = [255 * part for part in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.75, 1.0), value)]
    level = luminance(colour)
    if dark and level < ground + MIN_CONTRAST:
        share = (ground + MIN_CONTRAST - level) / (255 - level)
        colour = [part + share * (255 - part) for part in colour]
    elif not dark and level > ground - MIN_CONTRAST:
        colour = [part * (ground - MIN_CONTRAST) / level for part in colour]
    return round(colour[0]), round(colour[1]), round(colour[2])
