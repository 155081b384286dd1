# SPDX-License-Identifier: Apache-2.0
"""Block-wise masks equal the official generator's, mask by mask, for every fixture `masking*`."""

from __future__ import annotations

import re

import numpy as np
from golden_io import load_golden
from scipy import ndimage

from beitv2_core.data import SampleRng
from beitv2_core.masking import BlockwiseMasking

SUBJECT = "masking"
OWN_MASKS = 3000


def build(case: dict) -> BlockwiseMasking:
    options = {key: case[key] for key in ("min_aspect",) if case.get(key) is not None}
    return BlockwiseMasking(
        tuple(case["size"]), case["num"], min_block=case.get("min_num", 4), max_block=case.get("max_num"), **options
    )


def test_masks_equal_the_official_ones_draw_by_draw(fixture_path):
    arrays, meta = load_golden(fixture_path)
    compared = 0
    for case in meta["config"]["cases"]:
        masking = build(case)
        for name, expected in arrays.items():
            found = re.fullmatch(re.escape(case["name"]) + r"/seed(\d+)/masks", name)
            if not found:
                continue
            rng = SampleRng.from_seed(int(found.group(1)))
            for number, mask in enumerate(expected):
                np.testing.assert_array_equal(masking(rng), mask.astype(bool), err_msg=f"{name}, mask {number}")
                compared += 1
    assert compared, f"{fixture_path} holds no masks"


def test_frequencies_and_components_follow_the_official_statistics(fixture_path):
    arrays, meta = load_golden(fixture_path)
    for case in meta["config"]["cases"]:
        if f"{case['name']}/stats/frequency" not in arrays:
            continue
        stats = meta["cases"][case["name"]]
        masking = build(case)
        rng = SampleRng.from_seed(7)
        masks = np.stack([masking(rng) for _ in range(OWN_MASKS)])
        assert (masks.sum((1, 2)) == case["num"]).all()
        expected = arrays[f"{case['name']}/stats/frequency"]
        error = np.sqrt(np.maximum(expected * (1 - expected), 1e-4) * (1 / OWN_MASKS + 1 / stats["n_masks"]))
        assert (np.abs(masks.mean(0) - expected) / error).max() < 5.5, case["name"]
        components = [ndimage.label(mask)[1] for mask in masks[::4]]
        spread = stats["std_components"] * np.sqrt(1 / len(components) + 1 / stats["n_component_samples"])
        assert abs(np.mean(components) - stats["mean_components"]) < 5 * spread, case["name"]
