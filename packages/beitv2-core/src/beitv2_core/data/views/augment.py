# SPDX-License-Identifier: Apache-2.0
"""RandAugment and random erasing with timm's semantics, drawn from one sample's own generators.

Source: timm 0.4.12 auto_augment.py and random_erasing.py, the version the official fine-tuning pins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ...errors import ConfigError
from ..rng import SampleRng
from .colour import adjust_brightness, adjust_contrast, adjust_saturation
from .transforms import find_interpolation

LARGEST = 10.0  # magnitudes are 0 .. 10
TRANSLATE_SHARE = 0.45  # of the image's side, at the largest magnitude
Fill = tuple[int, int, int]


class Op(NamedTuple):
    """One operation: `arguments(magnitude, rng) -> tuple`, `apply(image, *arguments, **geometry)`."""

    arguments: Callable[..., tuple[Any, ...]] | None
    apply: Callable[..., Image.Image]
    geometric: bool = False


def _negated(value: float, rng: SampleRng) -> float:
    return -value if rng.python.random() > 0.5 else value


def _signed(largest: float) -> Callable[..., tuple[float]]:
    return lambda magnitude, rng: (_negated(magnitude / LARGEST * largest, rng),)


def _enhance(magnitude: float, rng: SampleRng) -> tuple[float]:
    return (magnitude / LARGEST * 1.8 + 0.1,)


def _enhance_increasing(magnitude: float, rng: SampleRng) -> tuple[float]:
    return (1.0 + _negated(magnitude / LARGEST * 0.9, rng),)


def _whole(largest: int, start: int = 0, sign: int = 1) -> Callable[..., tuple[int]]:
    return lambda magnitude, rng: (start + sign * int(magnitude / LARGEST * largest),)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    if bits >= 8:
        return image
    if bits <= 0:  # Pillow up to 12 gives a black image, Pillow 13 an error; timm reaches 0 in 2 % of its draws
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits)


def _solarize(image: Image.Image, threshold: int) -> Image.Image:
    return ImageOps.solarize(image, threshold)


def _solarize_add(image: Image.Image, add: int) -> Image.Image:
    return image.point([min(255, level + add) if level < 128 else level for level in range(256)] * 3)


def _sharpness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor)


def _affine(image: Image.Image, matrix: tuple[float, ...], resample: Any, fill: Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


def _rotate(image: Image.Image, degrees: float, resample: Any, fill: Fill) -> Image.Image:
    return image.rotate(degrees, resample=resample, fillcolor=fill)


def _shear_x(image: Image.Image, factor: float, resample: Any, fill: Fill) -> Image.Image:
    return _affine(image, (1, factor, 0, 0, 1, 0), resample, fill)


def _shear_y(image: Image.Image, factor: float, resample: Any, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, factor, 1, 0), resample, fill)


def _translate_x(image: Image.Image, share: float, resample: Any, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, share * image.size[0], 0, 1, 0), resample, fill)


def _translate_y(image: Image.Image, share: float, resample: Any, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, share * image.size[1]), resample, fill)


OPS: dict[str, Op] = {
    "AutoContrast": Op(None, ImageOps.autocontrast),
    "Equalize": Op(None, ImageOps.equalize),
    "Invert": Op(None, ImageOps.invert),
    "Rotate": Op(_signed(30.0), _rotate, geometric=True),
    "Posterize": Op(_whole(4), _posterize),
    "PosterizeIncreasing": Op(_whole(4, 4, -1), _posterize),
    "PosterizeOriginal": Op(_whole(4, 4), _posterize),
    "Solarize": Op(_whole(256), _solarize),
    "SolarizeIncreasing": Op(_whole(256, 256, -1), _solarize),
    "SolarizeAdd": Op(_whole(110), _solarize_add),
    "Color": Op(_enhance, adjust_saturation),
    "ColorIncreasing": Op(_enhance_increasing, adjust_saturation),
    "Contrast": Op(_enhance, adjust_contrast),
    "ContrastIncreasing": Op(_enhance_increasing, adjust_contrast),
    "Brightness": Op(_enhance, adjust_brightness),
    "BrightnessIncreasing": Op(_enhance_increasing, adjust_brightness),
    "Sharpness": Op(_enhance, _sharpness),
    "SharpnessIncreasing": Op(_enhance_increasing, _sharpness),
    "ShearX": Op(_signed(0.3), _shear_x, geometric=True),
    "ShearY": Op(_signed(0.3), _shear_y, geometric=True),
    "TranslateXRel": Op(_signed(TRANSLATE_SHARE), _translate_x, geometric=True),
    "TranslateYRel": Op(_signed(TRANSLATE_SHARE), _translate_y, geometric=True),
}
_INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_ORDER = ("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
          "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


class RandAugment:
    """`num_ops` operations drawn with replacement, each applied with probability 0.5 at a magnitude around `magnitude`.

    policy: timm's string, e.g. "rand-m9-mstd0.5-inc1": m magnitude (0 .. 10), n operations (default 2), mstd standard
    deviation of the magnitude (default 0), inc the set whose effects all grow with the magnitude.  fill: RGB of what
    geometric operations uncover; interpolation: their filter.
    Raises ConfigError for a policy that cannot be read.
    Departs: inc0 is off (timm reads any text after "inc" as true).
    """

    def __init__(self, policy: str, *, fill: Fill = (128, 128, 128), interpolation: str = "bicubic") -> None:
        self.magnitude, self.deviation, self.num_ops, increasing = _read_policy(policy)
        self.names = [name + "Increasing" if increasing and name in _INCREASING else name for name in _ORDER]
        self.fill = fill
        self.filter = find_interpolation(interpolation)

    def __call__(self, image: Image.Image, rng: SampleRng) -> Image.Image:
        """Augment an RGB image."""
        for number in rng.numpy.choice(len(self.names), self.num_ops):
            if rng.python.random() <= 0.5:
                image = self.apply(self.names[number], image, self._magnitude(rng), rng)
        return image

    def apply(self, name: str, image: Image.Image, magnitude: float, rng: SampleRng) -> Image.Image:
        """One operation of `OPS` at a magnitude; the sign is drawn where it has one."""
        op = OPS[name]
        arguments = op.arguments(magnitude, rng) if op.arguments is not None else ()
        if not op.geometric:
            return op.apply(image, *arguments)
        return op.apply(image, *arguments, resample=self.filter, fill=self.fill)

    def _magnitude(self, rng: SampleRng) -> float:
        drawn = rng.python.gauss(self.magnitude, self.deviation) if self.deviation > 0 else self.magnitude
        return min(LARGEST, max(0.0, drawn))


def _read_policy(policy: str) -> tuple[float, float, int, bool]:
    name, *parts = policy.split("-")
    values = {"m": 10.0, "mstd": 0.0, "n": 2.0, "inc": 0.0}
    for part in parts:
        found = re.fullmatch(r"(mstd|inc|m|n)(\d+(?:\.\d+)?)", part)
        if found is None:
            name = ""
            break
        values[found.group(1)] = float(found.group(2))
    if name != "rand" or values["m"] > LARGEST or values["n"] < 1:
        raise ConfigError(
            f"RandAugment: policy {policy!r} cannot be read. Expected rand-m<0..10>, then any of -mstd<number>, "
            "-n<operations>, -inc1; for example rand-m9-mstd0.5-inc1."
        )
    return values["m"], values["mstd"], int(values["n"]), bool(values["inc"])


class RandomErasing:
    """Boxes to fill with noise: with probability `prob`, 1 to `max_count` of 2 % to a third of the image.

    Calling it gives (n, 4) int64 rows top, left, height, width for an image (height, width).  A box is taken only if
    smaller than the image in both directions; after 10 tries without one there is none.
    Source: timm random_erasing.py, mode "pixel"; the noise is standard normal in normalised space (`erase`).
    """

    def __init__(self, prob: float = 0.25, *, max_count: int = 1) -> None:
        self.prob, self.max_count = prob, max_count

    def __call__(self, height: int, width: int, rng: SampleRng) -> np.ndarray:
        """Draw the boxes of one image."""
        draw, boxes = rng.python, []
        if draw.random() > self.prob:
            return np.zeros((0, 4), dtype=np.int64)
        count = 1 if self.max_count == 1 else draw.randint(1, self.max_count)
        for _ in range(count):
            for _ in range(10):
                area = draw.uniform(0.02, 1 / 3) * height * width / count
                aspect = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
                h, w = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
                if w < width and h < height:
                    boxes.append((draw.randint(0, height - h), draw.randint(0, width - w), h, w))
                    break
        return np.asarray(boxes, dtype=np.int64).reshape(-1, 4)


def erase(image: np.ndarray, boxes: np.ndarray, noise: np.random.RandomState) -> None:
    """Fill boxes of a normalised image (3, H, W) with standard normal noise, in place."""
    for top, left, height, width in boxes:
        box = image[:, top:top + height, left:left + width]
        box[:] = noise.standard_normal(box.shape)
