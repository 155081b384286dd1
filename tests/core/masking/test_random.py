# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from beitv2_core.data import SampleRng
from beitv2_core.masking import MASKINGS, RandomMasking


def test_exactly_the_asked_number_is_hidden_and_every_place_is_as_likely():
    masking = RandomMasking((4, 6), 9)
    masks = np.stack([masking(SampleRng.for_sample(0, 0, index)) for index in range(2000)])
    assert masks.dtype == bool and (masks.sum((1, 2)) == 9).all()
    assert np.abs(masks.mean(0) - 9 / 24).max() < 0.06


def test_too_many_patches_are_named():
    with pytest.raises(ValueError, match="25.*24 patches"):
        RandomMasking((4, 6), 25)


def test_both_kinds_can_be_found_by_name():
    assert set(MASKINGS) == {"blockwise", "random"}
