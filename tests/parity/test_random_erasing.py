# SPDX-License-Identifier: Apache-2.0
"""Random erasing against timm: the boxes of consecutive calls, and how many draws they take."""

from __future__ import annotations

import numpy as np
from golden_io import load_golden

from beitv2_core.data import SampleRng
from beitv2_core.data.views.augment import RandomErasing, erase

SUBJECT = ("random_erasing",)


def test_boxes_of_consecutive_images(fixture_path):
    arrays, meta = load_golden(fixture_path)
    for case in meta["config"]["cases"]:
        rng, erasing = SampleRng.from_seed(meta["seed"]), RandomErasing(case["prob"], max_count=case["count"])
        rows = [(call, *box) for call in range(case["n"]) for box in erasing(case["h"], case["w"], rng).tolist()]
        np.testing.assert_array_equal(np.asarray(rows), arrays[f"{case['name']}/boxes"], err_msg=case["name"])
        assert rng.python.random() == meta["results"][case["name"]]["next_python_random"]


def test_the_noise_is_standard_normal_and_stays_inside_its_box(fixture_path):
    image = np.full((3, 60, 60), 5.0, dtype=np.float32)
    erase(image, np.array([[10, 20, 30, 40]]), np.random.RandomState(0))
    inside = image[:, 10:40, 20:60]
    assert abs(inside.mean()) < 0.05
    assert abs(inside.std() - 1) < 0.05
    assert (image == 5.0).sum() == image.size - inside.size
