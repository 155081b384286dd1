# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from beitv2_core.data import SampleRng
from beitv2_core.data.views import colour as C
from beitv2_core.errors import ConfigError

NAMES = ("brightness", "contrast", "saturation")
PILLOWS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}


def noise(width=40, height=30, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.93, 1.0, 1.4, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_colour_changes_equal_pillows_image_enhance(name, factor):
    image = noise()
    assert C.CHANGES[name](image, factor).tobytes() == PILLOWS[name](image).enhance(factor).tobytes()


@settings(max_examples=150, deadline=None)
@given(st.data(), st.permutations(NAMES), st.integers(0, 3), st.integers(1, 30), st.integers(1, 30))
def test_a_recoloured_part_has_the_pixels_of_the_whole_recoloured_image(data, names, count, width, height):
    changes = [(name, data.draw(st.floats(0.0, 2.0))) for name in names[:count]]
    left, top = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    box = (left, top, data.draw(st.integers(left + 1, width + 2)), data.draw(st.integers(top + 1, height + 2)))
    image = noise(width, height, seed=data.draw(st.integers(0, 1000)))
    expected = image
    for name, factor in changes:
        expected = PILLOWS[name](expected).enhance(factor)
    assert C.recolour(image, changes).tobytes() == expected.tobytes()
    assert C.recolour(image, changes, box).tobytes() == expected.crop(box).tobytes()


def test_jitter_uses_every_order_and_stays_within_its_factors():
    drawn = [C.ColorJitter().draw(SampleRng.from_seed(seed)) for seed in range(100)]
    assert {tuple(name for name, _ in changes) for changes in drawn} == set(itertools.permutations(NAMES))
    factors = [factor for changes in drawn for _, factor in changes]
    assert 0.6 <= min(factors) < 0.65 and 1.35 < max(factors) <= 1.4


def test_jitter_of_nothing_changes_nothing_and_negative_amounts_are_refused():
    image = noise()
    assert C.ColorJitter(0, 0, 0)(image, SampleRng.from_seed(0)) is image
    with pytest.raises(ConfigError, match="contrast is -1"):
        C.ColorJitter(0.4, -1, 0.4)
