# SPDX-License-Identifier: Apache-2.0
"""The whole training augmentation against timm: crop, forced flip, RandAugment and erasing on one random stream."""

from __future__ import annotations

import numpy as np
from golden_io import load_golden
from PIL import Image

from beitv2_core.data import SampleRng
from beitv2_core.data.views.augment import RandAugment, RandomErasing
from beitv2_core.data.views.transforms import RandomResizedCrop

SUBJECT = ("train_transform",)


def test_crop_augmentation_and_erase_box_of_every_seed(fixture_path):
    arrays, meta = load_golden(fixture_path)
    size = meta["config"]["size"]
    crop, erasing = RandomResizedCrop(size, scale=(0.08, 1.0)), RandomErasing(meta["config"]["reprob"])
    augment = RandAugment("rand-m9-mstd0.5-inc1", fill=tuple(meta["fill"]))
    for key, recorded in meta["draws"].items():
        source, seed = key.split("/seed")
        rng, tolerance = SampleRng.from_seed(int(seed)), 3 if recorded["max_diff_to_pillow12"] else 0
        image = crop(Image.fromarray(arrays[f"{source}/source"]), rng)
        np.testing.assert_allclose(np.asarray(image, dtype=int), arrays[f"{key}/crop"].astype(int), atol=tolerance)
        image = Image.fromarray(arrays[f"{key}/crop"])  # so that the rest is compared exactly
        if recorded["flip"]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        np.testing.assert_array_equal(np.asarray(augment(image, rng)), arrays[f"{key}/augmented"], err_msg=key)
        boxes = erasing(size, size, rng)
        expected = arrays[f"{key}/erase_tlhw"]
        np.testing.assert_array_equal(boxes, expected[None] if expected[0] >= 0 else np.zeros((0, 4)), err_msg=key)
        assert rng.python.random() == recorded["next_python_random"]
        assert rng.numpy.rand() == recorded["next_numpy_rand"]
