# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beitv2_core.data import SampleRng
from beitv2_core.masking import BlockwiseMasking


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_exactly_the_asked_number_is_hidden_whatever_the_grid(data):
    grid = (data.draw(st.integers(1, 16)), data.draw(st.integers(1, 16)))
    num = data.draw(st.integers(0, grid[0] * grid[1]))
    low = data.draw(st.integers(1, 20))
    rng = SampleRng.from_seed(data.draw(st.integers(0, 99)))
    mask = BlockwiseMasking(grid, num, min_block=min(low, max(num, 1)))(rng)
    assert mask.shape == grid and mask.dtype == bool and mask.sum() == num


def test_the_same_generators_give_the_same_masks_and_others_do_not():
    masking = BlockwiseMasking((14, 14), 75, min_block=16)
    masks = [masking(SampleRng.for_sample(0, 1, index)) for index in (5, 5, 6)]
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()


def test_hidden_patches_come_in_blocks():
    masking = BlockwiseMasking((14, 14), 75, min_block=16)
    touching = []
    for index in range(50):
        mask = np.pad(masking(SampleRng.for_sample(0, 0, index)), 1)
        neighbours = mask[:-2, 1:-1] | mask[2:, 1:-1] | mask[1:-1, :-2] | mask[1:-1, 2:]
        touching.append(neighbours[mask[1:-1, 1:-1]].mean())
    assert np.mean(touching) > 0.97


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": (8, 8), "num_masked": 75}, ["75", "64 patches"]),
        ({"grid": (0, 8), "num_masked": 0}, ["0 x 8"]),
        ({"grid": (8, 8), "num_masked": 9, "min_aspect": 0}, ["min_aspect is 0"]),
        ({"grid": (8, 8), "num_masked": 20, "min_block": 9, "max_block": 4}, ["9 to 4"]),
    ],
)
def test_impossible_numbers_are_named(options, words):
    with pytest.raises(ValueError) as caught:
        BlockwiseMasking(**options)
    assert all(word in str(caught.value) for word in words)
