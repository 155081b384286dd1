# SPDX-License-Identifier: Apache-2.0
"""Patches are projected as the convolution of the official code projects them."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers.patch_embed import PatchEmbed


def images(*shape):
    drawn = paddle.to_tensor(np.random.RandomState(0).randn(*shape).astype("float32"))
    drawn.stop_gradient = False
    return drawn


def test_the_product_and_its_gradients_are_those_of_the_convolution(monkeypatch):
    layer, found = PatchEmbed((4, 2), 3, 5), []
    factors = paddle.to_tensor(np.random.RandomState(1).randn(2, 12, 5).astype("float32"))
    for plain in "01":
        monkeypatch.setenv("BEITV2_PLAIN_LAYERS", plain)
        layer.clear_gradients()
        x = images(2, 3, 12, 8)
        made = layer(x)
        (made * factors).sum().backward()
        found.append([made, x.grad.clone(), *(parameter.grad.clone() for parameter in layer.parameters())])
    for fast, plain in zip(*found):
        np.testing.assert_allclose(fast.numpy(), plain.numpy(), rtol=1e-5, atol=1e-5)


def test_a_hook_of_the_convolution_is_called():
    layer, called = PatchEmbed((4, 4), 3, 5), []
    layer.proj.register_forward_post_hook(lambda *_: called.append(1))
    layer(images(1, 3, 8, 8))
    assert called == [1]


def test_another_layer_in_its_place_is_called():
    layer = PatchEmbed((4, 4), 3, 5)
    layer.proj = nn.Sequential(layer.proj, nn.Sigmoid())
    assert float(layer(images(1, 3, 8, 8)).max()) <= 1


@pytest.mark.parametrize(("shape", "words"), [((1, 4, 8, 8), "4 channels"), ((1, 3, 8, 10), "8 x 10")])
def test_images_that_do_not_fit_are_refused(shape, words):
    with pytest.raises(ShapeError, match=words):
        PatchEmbed((4, 4), 3, 5)(images(*shape))
