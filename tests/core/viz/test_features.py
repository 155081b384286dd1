# SPDX-License-Identifier: Apache-2.0
"""Patch features as pictures: colours that mean the same in every image, cosines that are cosines."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beitv2_core.errors import ShapeError
from beitv2_core.viz.features import (
    all_similarities,
    component_colours,
    feature_components,
    patch_similarity,
    similarity_maps,
)

RNG = np.random.RandomState(0)
FEATURES = RNG.randn(3, 4, 5, 6)
IMAGES = RNG.rand(3, 3, 32, 40).astype(np.float32)


def test_components_are_those_of_the_covariance_of_all_images_together():
    found = component_colours(FEATURES)
    rows = FEATURES.reshape(-1, 6)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    np.testing.assert_allclose(found.explained, values[:2:-1] / values.sum(), rtol=1e-9)
    scores = (rows - rows.mean(0)) @ vectors[:, -1]
    shades = found.colours[..., 0].reshape(-1)
    inside = (shades > 0) & (shades < 1)  # some patches are clipped
    assert inside.mean() > 0.9
    assert abs(np.corrcoef(scores[inside], shades[inside])[0, 1]) > 1 - 1e-9
    assert found.foreground.all() and found.colours.dtype == np.float32


def test_equal_features_have_equal_colours_in_every_image():
    features = FEATURES.copy()
    features[2] = features[0]
    colours = component_colours(features).colours
    np.testing.assert_array_equal(colours[0], colours[2])


def test_colours_do_not_depend_on_the_order_of_the_images():
    colours, turned = component_colours(FEATURES).colours, component_colours(FEATURES[::-1]).colours
    np.testing.assert_allclose(colours[::-1], turned, atol=1e-6)


def test_the_foreground_is_the_side_that_avoids_the_borders_whatever_the_sign():
    features = 0.1 * RNG.randn(2, 6, 6, 5)
    features[:, 2:4, 2:5] += 5
    for sign in (1, -1):
        found = component_colours(sign * features, foreground=True)
        expected = np.zeros((2, 6, 6), dtype=bool)
        expected[:, 2:4, 2:5] = True
        np.testing.assert_array_equal(found.foreground, expected)
        assert (found.colours[~expected] == 1).all() and (found.colours[expected] < 1).any()


@pytest.mark.parametrize("features", [np.ones((2, 3, 3, 4)), np.full((1, 1, 1, 8), 0.3), np.full((1, 2, 2, 1), 7.0)])
def test_what_has_no_variance_is_grey(features):
    for foreground in (False, True):
        found = component_colours(features, foreground=foreground)
        assert (found.colours == 0.5).all() and found.explained == (0, 0, 0)


def test_components_that_do_not_exist_are_grey():
    found = component_colours(RNG.randn(1, 1, 2, 2))
    assert found.explained[1:] == pytest.approx((0, 0), abs=1e-12)
    assert set(found.colours[..., 0].ravel()) == {0.0, 1.0} and (found.colours[..., 2] == 0.5).all()


def test_similarity_is_the_cosine_with_a_patch_of_the_same_or_of_the_first_image():
    patches = [(0, 0), (3, 4), (1, 2)]
    own, across = (patch_similarity(FEATURES, patches, across=across) for across in (False, True))
    for i, (row, column) in enumerate(patches):
        a, b = FEATURES[i, 2, 1], FEATURES[i, row, column]
        assert own[i, 2, 1] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        b = FEATURES[0, 0, 0]
        assert across[i, 2, 1] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert own[i, row, column] == pytest.approx(1)
    everything = all_similarities(FEATURES[1])
    assert everything.shape == (20, 20)
    np.testing.assert_allclose(everything[3 * 5 + 4].reshape(4, 5), own[1])


def test_features_of_length_zero_are_similar_to_nothing():
    assert (patch_similarity(np.zeros((1, 2, 2, 3)), [(0, 0)]) == 0).all()


def test_figures_show_the_colours_and_frame_the_patch(tmp_path):
    features = np.zeros((3, 4, 5, 3))
    features[:, :2] = 1
    corners = [(0, 0)] * 3
    maps = patch_similarity(features, corners)
    feature_components(IMAGES, component_colours(FEATURES), tmp_path / "components.png")
    similarity_maps(IMAGES, maps, corners, tmp_path / "own.png")
    similarity_maps(IMAGES, maps, corners, tmp_path / "across.png", across=True)
    pictures = {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in tmp_path.iterdir()}
    assert set(pictures) == {"components", "own", "across"}
    frames = {name: (pictures[name] < 10).all(-1).sum() for name in ("own", "across")}
    assert frames["own"] > frames["across"] > 0  # three frames, and one


@pytest.mark.parametrize(("call", "words"), [
    (lambda path: component_colours(np.zeros((2, 16, 8))), r"shape \(2, 16, 8\); expected \(images, rows"),
    (lambda path: component_colours(np.full((1, 2, 2, 3), np.nan)), "non-finite"),
    (lambda path: patch_similarity(FEATURES, [(0, 0)]), "1 patches for 3 images"),
    (lambda path: patch_similarity(FEATURES, [(0, 0), (4, 0), (0, 0)]), r"patch 4 0: the grid has rows 0 \.\. 3"),
    (lambda path: similarity_maps(IMAGES, np.zeros((2, 4, 5)), [(0, 0)] * 2, path), r"expected \(3, rows, columns\)"),
    (lambda path: feature_components(IMAGES, component_colours(FEATURES[:2]), path), r"expected \(3, rows, columns\)"),
])
def test_wrong_shapes_are_named_and_nothing_is_written(tmp_path, call, words):
    with pytest.raises(ShapeError, match=words):
        call(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
