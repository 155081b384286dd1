# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beitv2_core.data import SampleRng
from beitv2_core.data.views import transforms as T
from beitv2_core.errors import ConfigError


def noise(width=40, height=30, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


def test_equal_views_are_resized_once_and_shared(monkeypatch):
    calls = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *args, **more: calls.append(1) or resize(*args, **more))
    first, second = T.TwoViewCrop(16, 16)(noise(), SampleRng.from_seed(1))
    assert first is second and len(calls) == 1
    first, second = T.TwoViewCrop(16, (8, 12))(noise(), SampleRng.from_seed(1))
    assert first.size == (16, 16) and second.size == (12, 8) and len(calls) == 3


def test_both_views_show_the_same_crop():
    image = Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)).convert("RGB")
    first, second = T.TwoViewCrop(32, 16, second_interpolation="lanczos")(image, SampleRng.from_seed(3))
    halved = np.asarray(first.resize((16, 16), Image.Resampling.BOX)).astype(int)
    assert np.abs(halved - np.asarray(second)).mean() < 4


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6))
def test_a_crop_box_lies_inside_the_image(width, height, seed):
    top, left, h, w = T.draw_crop_box(width, height, (0.08, 1.0), (3 / 4, 4 / 3), random.Random(seed))
    assert 0 <= top and 0 <= left and 0 <= h <= height - top and 0 <= w <= width - left


def test_a_image_of_one_pixel_can_be_cropped():
    for seed in range(20):
        assert T.RandomResizedCrop(8)(noise(1, 1), SampleRng.from_seed(seed)).size == (8, 8)


def test_flip_mirrors_half_of_the_images():
    image = noise()
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    flipped = [T.RandomHorizontalFlip()(image, SampleRng.from_seed(s)).tobytes() == mirrored for s in range(400)]
    assert 150 < sum(flipped) < 250


@pytest.mark.parametrize("size", [(37, 53), (53, 37), (24, 24)])
def test_eval_crop_is_the_centre_and_needs_no_randomness(size):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[size[1] // 2, size[0] // 2] = 255
    crop = np.asarray(T.EvalCrop(16)(Image.fromarray(pixels)))[..., 0]
    assert crop.shape == (16, 16)
    row, column = np.unravel_index(crop.argmax(), crop.shape)
    assert 7 <= row <= 8 and 7 <= column <= 8


@pytest.mark.parametrize("size", [(100, 40), (40, 90), (64, 64), (33, 21)])
@pytest.mark.parametrize(("target", "share"), [(16, 0.875), ((16, 24), 0.5), (8, 1.0)])
def test_the_region_of_an_eval_crop_is_what_it_shows(size, target, share):
    ramp = np.stack([*np.meshgrid(np.arange(size[0]), np.arange(size[1])), np.zeros(size[::-1])], -1).astype(np.uint8)
    crop = T.EvalCrop(target, share, "bilinear")
    shown = np.asarray(crop(Image.fromarray(ramp)), dtype=float)
    left, top, right, bottom = crop.region(size)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    centre = shown[shown.shape[0] // 4:-(shown.shape[0] // 4), shown.shape[1] // 4:-(shown.shape[1] // 4)]
    np.testing.assert_allclose(centre[..., 0].mean() + 0.5, (left + right) / 2, atol=1)
    np.testing.assert_allclose(centre[..., 1].mean() + 0.5, (top + bottom) / 2, atol=1)
    step = (right - left) / shown.shape[1]
    np.testing.assert_allclose(np.diff(centre[0, :, 0]).mean(), step, atol=0.15 * step + 0.05)


def test_eval_crop_keeps_a_image_that_already_has_the_size():
    image = noise(32, 32)
    assert T.EvalCrop(32, crop_share=1.0)(image).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(50, 20), (20, 50)])
def test_non_square_eval_crops_have_the_asked_size(size):
    assert T.EvalCrop((16, 24))(noise(*size)).size == (24, 16)


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="'cubic'.*bicubic"):
        T.TwoViewCrop(8, interpolation="cubic")
    with pytest.raises(ConfigError, match="crop scale"):
        T.TwoViewCrop(8, scale=(0.9, 0.1))
    with pytest.raises(ConfigError, match="crop_share"):
        T.EvalCrop(8, crop_share=1.5)
