# SPDX-License-Identifier: Apache-2.0
"""The HOG teacher: what its features must tell apart, and what they must not."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ConfigError, ShapeError
from beitv2_core.teachers import build_teacher


def stripes(degrees: float, size: int = 32, contrast: float = 0.4, period: float = 6.0) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    along = x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
    return np.repeat((0.5 + contrast * np.sin(2 * np.pi * along / period))[None], 3, axis=0).astype(np.float32)


def features(images, **options) -> np.ndarray:
    teacher = build_teacher("hog", image_size=32, patch_size=8, **options)
    return teacher(paddle.to_tensor(np.stack(images))).numpy()


def cosine(a, b) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("options", [{}, {"context": False}, {"colour": 0.0}, {"num_orientations": 9}])
def test_width_and_grid_are_reported_as_they_are(options):
    teacher = build_teacher("hog", image_size=(32, 48), patch_size=8, **options)
    out = teacher(paddle.rand([2, 3, 32, 48]))
    assert teacher.grid == (4, 6) and list(out.shape) == [2, 24, teacher.width] and out.dtype == paddle.float32


@pytest.mark.parametrize("degrees, bin_index", [(0, 0), (30, 1), (60, 2), (90, 3), (120, 4), (150, 5)])
def test_stripes_vote_for_the_direction_of_their_gradient(degrees, bin_index):
    middle = features([stripes(degrees)], colour=0.0, constant=0.0)[0, 5, :-1].reshape(6, -1).sum(1)
    assert middle.argmax() == bin_index and middle[bin_index] > 0.6 * middle.sum()


def test_every_patch_sees_its_own_place():
    image = np.full((3, 32, 32), 0.5, np.float32)
    image[:, 8:16, 16:24] = stripes(90)[:, 8:16, 16:24]
    energy = np.linalg.norm(features([image], context=False, constant=0.0)[0], axis=-1)
    assert energy.argmax() == 1 * 4 + 2


def test_context_looks_half_a_patch_beyond():
    image = np.full((3, 32, 32), 0.5, np.float32)
    image[:, :, 16:20] = stripes(90)[:, :, 16:20]  # right of the second column of patches
    own = features([image], context=False, colour=0.0, constant=0.0)[0, 4]
    wide = features([image], context=True, colour=0.0, constant=0.0)[0, 5]
    assert np.abs(own).max() < 1e-6 and np.linalg.norm(wide) > 0.5


def test_the_noise_of_flat_patches_does_not_decide_their_target():
    rng = np.random.RandomState(0)
    flat = [np.float32(0.5) + rng.uniform(-0.004, 0.004, (3, 32, 32)).astype(np.float32) for _ in range(2)]
    first, second = features(flat)
    assert min(cosine(a, b) for a, b in zip(first, second)) > 0.98
    assert cosine(first[5], features([stripes(0)])[0, 5]) < 0.7


def test_contrast_matters_little_once_it_is_there():
    strong, weak = features([stripes(30, contrast=0.45), stripes(30, contrast=0.3)])
    assert cosine(strong[5], weak[5]) > 0.97


def test_colour_can_be_left_out():
    grey = stripes(30)
    red = grey.copy()
    red[0, 8:16, 8:16] += 0.05
    with_colour, without = (cosine(*features([grey, red], colour=colour)[:, 5]) for colour in (3.0, 0.0))
    assert with_colour < without


def test_values_are_finite_for_black_white_and_out_of_range_images():
    images = [np.full((3, 32, 32), value, np.float32) for value in (0.0, 1.0, 7.0)]
    out = features(images)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[1], out[2], atol=1e-6)


def test_an_odd_patch_is_refused():
    with pytest.raises(ConfigError, match="7 x 7.*even"):
        build_teacher("hog", image_size=28, patch_size=7)


def test_a_image_of_half_a_patch_more_is_refused():
    with pytest.raises(ShapeError, match="36 x 36"):
        build_teacher("hog", image_size=36, patch_size=8)


def test_weights_are_refused_since_it_has_none():
    with pytest.raises(ConfigError, match="has none"):
        build_teacher("hog", weights="hog.pth", image_size=32, patch_size=8)


@pytest.mark.parametrize("options", [{"num_orientations": 2}, {"floor": 0.0}])
def test_impossible_settings_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        build_teacher("hog", image_size=32, patch_size=8, **options)
