# SPDX-License-Identifier: Apache-2.0
"""The form of a segmenter's answer: colours, shares and sizes."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from beitv2_core.errors import ShapeError
from beitv2_core.serve.results import image_url, label_map_result


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))).convert("RGB")


def test_a_label_map_becomes_an_overlay_with_its_colours_and_shares():
    labels = np.zeros((6, 10), dtype=np.int64)
    labels[:, 7:] = 2
    colours = np.array([[10, 20, 30], [0, 0, 0], [250, 128, 1]], dtype=np.uint8)
    result = label_map_result(Image.new("RGB", (10, 6)), labels, ["sky", "sea", "sand"], colours=colours)
    assert [(one.name, one.colour, round(one.share, 9)) for one in result.classes] == [
        ("sky", "#0a141e", 0.7), ("sand", "#fa8001", 0.3)]
    np.testing.assert_array_equal(np.asarray(opened(result.overlay)), colours[labels])
    assert opened(result.seen).size == (10, 6)


def test_large_images_are_reduced_together_with_their_overlay():
    labels = np.repeat([[0, 1]], 1500, axis=1).reshape(1, -1).repeat(1000, axis=0)
    result = label_map_result(Image.new("RGB", (3000, 1000), "red"), labels, ["a", "b"])
    assert opened(result.seen).size == opened(result.overlay).size == (1024, 341)
    assert len(np.unique(np.asarray(opened(result.overlay)).reshape(-1, 3), axis=0)) == 2  # no mixed colours


@pytest.mark.parametrize(("labels", "message"), [
    (np.zeros((10, 6), int), "10, 6.*6 x 10"),
    (np.zeros((6, 10)), "float64"),
    (np.full((6, 10), 3), "names for 0 .. 2"),
    (np.full((6, 10), -1), "from -1"),
])
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(ShapeError, match=message):
        label_map_result(Image.new("RGB", (10, 6)), labels, ["a", "b", "c"])


def test_small_images_are_sent_back_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(opened(image_url(Image.fromarray(pixels)))), pixels)
