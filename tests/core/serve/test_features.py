# SPDX-License-Identifier: Apache-2.0
"""The view of features: components and similarities of what the model saw, attention where there is one."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data.sources.image_file import Reading
from beitv2_core.errors import ShapeError
from beitv2_core.serve import features as serve_features
from beitv2_core.serve import results
from beitv2_core.serve.features import features_view, neighbours_view
from beitv2_core.serve.results import features_result
from beitv2_core.viz.features import component_colours

RNG = np.random.RandomState(0)
SEEN = Image.fromarray(RNG.randint(0, 256, (16, 24, 3)).astype(np.uint8))


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_components_and_similarities_are_those_of_the_figures():
    features = RNG.randn(2, 3, 5)
    result = features_result(SEEN, features)
    assert (result.rows, result.columns, result.attention) == (2, 3, [])
    expected = component_colours(features[None])
    np.testing.assert_array_equal(pixels(result.components), np.rint(255 * expected.colours[0]))
    assert result.explained == list(expected.explained)
    unit = (features / np.linalg.norm(features, axis=-1, keepdims=True)).reshape(6, 5)
    np.testing.assert_array_equal(result.similarity, np.rint(100 * unit @ unit.T))
    np.testing.assert_array_equal(pixels(result.seen), np.asarray(SEEN))


def test_each_head_is_an_image_scaled_to_its_largest_value():
    attention = np.array([[[0.0, 0.1, 0.2]], [[0.0, 0.4, 0.8]]])
    one, other = (pixels(head) for head in features_result(SEEN, RNG.randn(1, 3, 4), attention).attention)
    np.testing.assert_array_equal(one, other)
    assert one.shape == (1, 3, 3) and (np.diff(one.sum(-1, dtype=int)[0]) < 0).all()


def test_of_too_many_patches_the_similarities_are_left_out(monkeypatch):
    monkeypatch.setattr(results, "MAX_PATCHES", 6)
    assert features_result(SEEN, RNG.randn(2, 3, 4)).similarity is not None
    assert features_result(SEEN, RNG.randn(1, 7, 4)).similarity is None


def test_features_that_are_no_numbers_are_an_error():
    with pytest.raises(ShapeError, match="non-finite"):
        features_result(SEEN, np.full((1, 2, 3), np.inf))


class Model:
    """Features that are the mean colours of patches of 8 x 8 pixels."""

    grid, reading, exported = (2, 3), Reading(upright=True), False

    def preprocess(self, image):
        return (np.asarray(image.resize((24, 16))).transpose(2, 0, 1)[None] / 255).astype(np.float32)

    def features(self, images, *, what):
        assert what == "patches"
        return images.reshape(1, 3, 2, 8, 3, 8).mean((3, 5)).reshape(1, 3, 6).transpose(0, 2, 1)

    def attention(self, images):
        return np.ones((1, 2, *self.grid))


def test_the_view_shows_what_the_model_saw_and_no_attention_of_an_exported_model():
    view = features_view(Model())
    result = view.show(SEEN)
    assert view.upright and "2 x 3 patches" in view.about
    np.testing.assert_array_equal(pixels(result.seen), np.asarray(SEEN))
    assert len(result.attention) == 2
    exported = Model()
    exported.exported = True
    assert features_view(exported).show(SEEN).attention == []


class Found(NamedTuple):
    number: int
    path: str
    cosine: float


class File:
    """Three images below one folder, of which one is gone."""

    def __init__(self, folder):
        self.meta, self.paths = {"folder": str(folder)}, ["all/a/1.png", "all/b/gone.png", "all/b/2.png"]
        for path in (self.paths[0], self.paths[2]):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (300, 100), "red").save(folder / path)

    def place(self, number):
        return f"{self.meta['folder']}/{self.paths[number]}"


def test_the_nearest_images_have_names_below_their_folder_and_small_copies(tmp_path, caplog):
    asked = []

    def search(file, model, images, *, count):
        asked.append((images.shape, count))
        return [Found(2, "", 1.0000001), Found(1, "", 0.5), Found(0, "", -0.25)]

    view = neighbours_view(Model(), File(tmp_path), search)
    result = view.show(SEEN)
    assert asked == [((1, 3, 16, 24), serve_features.NEIGHBOURS)] and view.upright
    assert [(one.name, one.similarity) for one in result.neighbours] == [
        ("b/2.png", 1.0), ("b/gone.png", 0.5), ("a/1.png", -0.25)]
    assert str(tmp_path) not in result.model_dump_json()
    shown = [one.image for one in result.neighbours]
    assert pixels(shown[0]).shape[:2] == (53, 160) and shown[1] is None
    assert "gone.png" in caplog.text and result.images == 3
