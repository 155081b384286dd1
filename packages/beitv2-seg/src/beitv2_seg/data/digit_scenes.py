# SPDX-License-Identifier: Apache-2.0
"""The embedded images with a class for every pixel, as a PaddleSeg data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from beitv2_core.data import DigitScenes
from beitv2_core.errors import ConfigError

Data = dict[str, Any]


class BEiTv2DigitScenes:
    """Digits over photographs, drawn on the fly: background and ten digits.  Needs no files.

    transforms: what is done to each sample, in order; mode: "train" or "val", with disjoint digits and photographs;
    size: number of images; image_size: side in pixels; digits: fewest and most in an image; digit_scale: [lowest,
    highest] height of a digit as a share of the image; seed: seed of the drawn images.  Items are PaddleSeg's:
    {"img": float32 (3, H, W), "label": uint8 (H, W), in "val" (1, H, W) at the image's own size, "trans_info"}.
    """

    NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS = 11, 255, 3
    CLASSES = ("background", *(str(digit) for digit in range(10)))

    def __init__(self, transforms: Sequence[Callable[[Data], Data]], mode: str = "train", size: int = 2000,
                 image_size: int = 64, digits: Sequence[int] = (1, 3), digit_scale: Sequence[float] | None = None,
                 seed: int = 0):
        if mode not in ("train", "val"):
            raise ConfigError(f"BEiTv2DigitScenes: mode is {mode!r}; expected 'train' or 'val'.")
        self.transforms, self.mode = list(transforms), mode
        self.num_classes, self.ignore_index = self.NUM_CLASSES, self.IGNORE_INDEX
        scale = None if digit_scale is None else (float(digit_scale[0]), float(digit_scale[1]))
        self.scenes = DigitScenes("train" if mode == "train" else "test", size=size, image_size=image_size, seed=seed,
                                  digits=(digits[0], digits[1]), digit_scale=scale)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Data:
        scene = self.scenes.load(index)
        label = np.array(scene.mask)
        data: Data = {"img": np.asarray(scene.image), "trans_info": [], "gt_fields": []}
        if self.mode == "train":
            data.update(label=label, gt_fields=["label"])
        for transform in self.transforms:
            data = transform(data)
        data["img"] = np.ascontiguousarray(data["img"].transpose(2, 0, 1))
        if self.mode == "val":
            data["label"] = label[None]
        return data
