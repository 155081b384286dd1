# SPDX-License-Identifier: Apache-2.0
"""The recipe's pipeline on PaddleSeg's dicts {"img": (H, W, 3) RGB, "label": (H, W), "gt_fields": [names]}.

Images are handled as uint8 until they are normalised: OpenCV rounds there, and the official pipeline with it.
Every draw comes from numpy's global generator in the official order.
Source: mmsegmentation 0.11, datasets/pipelines/transforms.py; mmcv 1.3, image/geometric.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from beitv2_core.errors import ConfigError, DataError

Data = dict[str, Any]


def scaled_size(height: int, width: int, scale: Sequence[int]) -> tuple[int, int]:
    """(height, width) after resizing into the box `scale` (long side, short side) with the aspect ratio kept.

    Source: mmcv.rescale_size.
    """
    long, short = max(scale), min(scale)
    factor = min(long / max(height, width), short / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def _fields(data: Data) -> list[str]:
    """Names of the label maps that move with the image; their sizes are checked once, where they come in."""
    names = list(data.get("gt_fields", []))
    for name in names:
        if data[name].shape[:2] != data["img"].shape[:2]:
            raise DataError(f"the image is {data['img'].shape[:2]} pixels, its {name} {data[name].shape[:2]} "
                            f"({data.get('path', 'no file name')}). Image and label must have the same size.")
    return names


def _as_bytes(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _resize(data: Data, size: tuple[int, int]) -> Data:
    names = _fields(data)
    height, width = size
    data["img"] = cv2.resize(_as_bytes(data["img"]), (width, height), interpolation=cv2.INTER_LINEAR)
    for name in names:
        data[name] = cv2.resize(data[name], (width, height), interpolation=cv2.INTER_NEAREST)
    return data


class BEiTv2RatioRangeResize:
    """Resize into a box times one random ratio, aspect kept.  Source: Resize(img_scale, ratio_range).

    scale: [long, short] sides of the box, pixels; ratio_range: [lowest, highest] ratio.
    """

    def __init__(self, scale: Sequence[int] = (2048, 512), ratio_range: Sequence[float] = (0.5, 2.0)):
        if len(scale) != 2 or len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ConfigError(f"BEiTv2RatioRangeResize: scale {list(scale)}, ratio_range {list(ratio_range)}; expected "
                              "[long, short] pixels and [low, high] with 0 < low <= high.")
        self.scale, self.ratio_range = tuple(scale), tuple(ratio_range)

    def draw(self) -> tuple[int, int]:
        """The box of one call: (long, short) pixels."""
        low, high = self.ratio_range
        ratio = np.random.random_sample() * (high - low) + low
        return int(self.scale[0] * ratio), int(self.scale[1] * ratio)

    def __call__(self, data: Data) -> Data:
        height, width = data["img"].shape[:2]
        return _resize(data, scaled_size(height, width, self.draw()))


class BEiTv2Resize:
    """Resize into a box, aspect kept, and note the old size for the way back ("trans_info").

    scale: [long, short] sides of the box, pixels; ratio: factor of both.
    """

    def __init__(self, scale: Sequence[int] = (2048, 512), ratio: float = 1.0):
        self.scale, self.ratio = tuple(scale), ratio

    def __call__(self, data: Data) -> Data:
        height, width = data["img"].shape[:2]
        data.setdefault("trans_info", []).append(("resize", (height, width)))
        box = [int(side * self.ratio) for side in self.scale]
        return _resize(data, scaled_size(height, width, box))


class BEiTv2RandomCrop:
    """Crop; up to 10 new tries while one class has `cat_max_ratio` or more of the labelled pixels.

    crop_size: [height, width] in pixels; cat_max_ratio: largest share of one class; ignore_index: label of pixels
    without a class, which are not counted.
    A smaller image stays as it is.  The last box is kept even if it fails.  Source: RandomCrop.
    """

    def __init__(self, crop_size: Sequence[int] = (512, 512), cat_max_ratio: float = 0.75, ignore_index: int = 255):
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ConfigError(f"BEiTv2RandomCrop: crop_size is {list(crop_size)}; expected [height, width] above 0.")
        self.crop_size, self.cat_max_ratio, self.ignore_index = tuple(crop_size), cat_max_ratio, ignore_index

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """One box (top, bottom, left, right)."""
        top = np.random.randint(0, max(height - self.crop_size[0], 0) + 1)
        left = np.random.randint(0, max(width - self.crop_size[1], 0) + 1)
        return top, top + self.crop_size[0], left, left + self.crop_size[1]

    def choose(self, label: np.ndarray) -> tuple[int, int, int, int]:
        """The box for a label map (H, W)."""
        box = self.draw(*label.shape[:2])
        if self.cat_max_ratio < 1.0:
            for _ in range(10):
                counts = class_counts(label[box[0]:box[1], box[2]:box[3]], self.ignore_index)
                if len(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio:
                    break
                box = self.draw(*label.shape[:2])
        return box

    def __call__(self, data: Data) -> Data:
        names = _fields(data)
        top, bottom, left, right = self.choose(data["label"])
        for name in ["img", *names]:
            data[name] = data[name][top:bottom, left:right]
        return data


def class_counts(label: np.ndarray, ignore_index: int) -> np.ndarray:
    """Pixels of every class that occurs, ignored ones left out, in the order of the classes."""
    if label.dtype == np.uint8:
        counts = np.bincount(label.reshape(-1), minlength=256)  # no sorting of a quarter of a million pixels
        if 0 <= ignore_index < len(counts):
            counts[ignore_index] = 0
        return counts[counts > 0]
    values, counts = np.unique(label, return_counts=True)
    return counts[values != ignore_index]


class BEiTv2RandomFlip:
    """Mirror left to right, drawn from numpy's generator like the rest of the recipe.

    prob: share of images that are mirrored.
    PaddleSeg's own RandomHorizontalFlip draws from Python's generator.  Source: RandomFlip.
    """

    def __init__(self, prob: float = 0.5):
        self.prob = prob

    def __call__(self, data: Data) -> Data:
        if np.random.rand() < self.prob:
            for name in ["img", *_fields(data)]:
                data[name] = np.ascontiguousarray(data[name][:, ::-1])
        return data


class BEiTv2PhotoMetricDistortion:
    """Random brightness, contrast (first or last), saturation and hue.  Source: PhotoMetricDistortion.

    brightness: levels; contrast, saturation: (low, high) factors; hue: half degrees, the upper end never drawn.
    """

    def __init__(self, brightness: float = 32, contrast: Sequence[float] = (0.5, 1.5),
                 saturation: Sequence[float] = (0.5, 1.5), hue: int = 18):
        self.brightness, self.contrast, self.saturation, self.hue = brightness, tuple(contrast), tuple(saturation), hue

    def __call__(self, data: Data) -> Data:
        data["img"] = self.distort(_as_bytes(data["img"]))
        return data

    def distort(self, image: np.ndarray) -> np.ndarray:
        """A distorted copy of an RGB uint8 image (H, W, 3)."""
        if np.random.randint(2):
            image = scale_levels(image, beta=np.random.uniform(-self.brightness, self.brightness))
        contrast_first = np.random.randint(2) == 1
        if contrast_first:
            image = self._contrast(image)
        if np.random.randint(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[:, :, 1] = scale_levels(hsv[:, :, 1], alpha=np.random.uniform(self.saturation[0], self.saturation[1]))
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if np.random.randint(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            shift = np.random.randint(-self.hue, self.hue)
            hsv[:, :, 0] = cv2.LUT(hsv[:, :, 0], ((np.arange(256) + shift) % 180).astype(np.uint8))
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return image if contrast_first else self._contrast(image)

    def _contrast(self, image: np.ndarray) -> np.ndarray:
        if np.random.randint(2):
            return scale_levels(image, alpha=np.random.uniform(self.contrast[0], self.contrast[1]))
        return image


def scale_levels(levels: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
    """alpha * levels + beta in float32, clipped to 0 .. 255 and cut (not rounded) to uint8; levels are uint8.

    Computed once for each of the 256 levels.
    """
    table = np.clip(np.arange(256, dtype=np.float32) * alpha + beta, 0, 255).astype(np.uint8)
    return cv2.LUT(levels, table)


class BEiTv2Pad:
    """Fill up on the right and below: the image with 0, labels with `ignore_index`.

    size: [height, width] in pixels; ignore_index: label of pixels without a class.
    After normalising, 0 is the mean colour.  Source: Pad(size, pad_val=0, seg_pad_val=255).
    """

    def __init__(self, size: Sequence[int] = (512, 512), ignore_index: int = 255):
        self.size, self.ignore_index = tuple(size), ignore_index

    def __call__(self, data: Data) -> Data:
        names = _fields(data)
        height, width = data["img"].shape[:2]
        below, right = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        for name, value in [("img", 0), *((name, self.ignore_index) for name in names)]:
            data[name] = cv2.copyMakeBorder(data[name], 0, below, 0, right, cv2.BORDER_CONSTANT,
                                            value=[value] * 3)
        return data


class BEiTv2Normalize:
    """(level - mean) / std per channel, float32; by default ImageNet's values.  Source: mmcv.imnormalize.

    mean: of each channel, in levels 0 .. 255; std: standard deviation of each channel, in levels.
    """

    def __init__(self, mean: Sequence[float] = (123.675, 116.28, 103.53),
                 std: Sequence[float] = (58.395, 57.12, 57.375)):
        self.mean = np.asarray(mean, dtype=np.float64).reshape(1, -1)
        self.inverse = 1 / np.asarray(std, dtype=np.float64).reshape(1, -1)
        every_level = np.repeat(np.arange(256, dtype=np.float32)[:, None, None], 3, axis=2)
        self._of_levels = self._normalised(every_level)  # (256, 1, 3): bytes need no arithmetic of their own

    def __call__(self, data: Data) -> Data:
        image = data["img"]
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            data["img"] = cv2.LUT(image, self._of_levels)
        else:
            data["img"] = self._normalised(image.astype(np.float32))
        return data

    def _normalised(self, image: np.ndarray) -> np.ndarray:
        return cv2.multiply(cv2.subtract(image, self.mean), self.inverse)


def reduce_zero_label(label: np.ndarray) -> np.ndarray:
    """ADE20K's labels as classes: 0 (other) and 255 are ignored (255), 1 .. 150 become 0 .. 149.

    Source: mmsegmentation 0.11, LoadAnnotations(reduce_zero_label=True).
    """
    reduced = label.astype(np.uint8).copy()
    reduced[reduced == 0] = 255
    reduced -= 1
    reduced[reduced == 254] = 255
    return reduced
