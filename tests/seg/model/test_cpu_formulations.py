# SPDX-License-Identifier: Apache-2.0
"""Convolution, resizing and loss as the CPU computes them fast: the values and gradients of Paddle's own."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_seg.model import losses
from beitv2_seg.model.convolution import Conv3x3
from beitv2_seg.model.heads import resize
from beitv2_seg.model.losses import pixel_cross_entropy


def assert_equal(ours, plain, inputs):
    assert ours.shape == plain.shape
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=2e-6)
    factors = paddle.randn(plain.shape)
    for one, other in zip(*(paddle.grad((found * factors).sum(), inputs) for found in (ours, plain))):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (3, 4, 4, 4), (2, 1, 1, 1), (1, 2, 1, 6)])
def test_a_3x3_convolution_equals_paddles(shape):
    paddle.seed(1)
    layer, x = Conv3x3(shape[1], 6), paddle.randn(list(shape))
    x.stop_gradient = False
    assert_equal(layer(x), F.conv2d(x, layer.weight, padding=1), [x, layer.weight])


def test_a_frozen_kernel_and_a_image_without_gradient():
    layer, x = Conv3x3(2, 3), paddle.randn([1, 2, 4, 4])
    (layer(x) ** 2).sum().backward()
    assert x.grad is None and layer.weight.grad.shape == [3, 2, 3, 3]
    layer.weight.stop_gradient = True
    assert layer(x).stop_gradient
    x.stop_gradient = False
    (layer(x) ** 2).sum().backward()
    assert x.grad.shape == [1, 2, 4, 4]


@pytest.mark.parametrize("size", [(7, 9), (40, 31), (3, 100), (9, 13)])
def test_resizing_in_training_equals_paddles(monkeypatch, size):
    x = paddle.randn([2, 4, 9, 13])
    x.stop_gradient = False
    plain = F.interpolate(x, list(size), mode="bilinear", align_corners=False)
    monkeypatch.setattr(F, "interpolate", None)  # is not asked
    assert_equal(resize(x, size), plain, [x])


def test_the_loss_with_the_classes_last_equals_that_with_the_classes_second(monkeypatch):
    logits = paddle.randn([2, 5, 3, 4])
    logits.stop_gradient = False
    labels = paddle.randint(0, 5, [2, 3, 4])
    labels[0, 0] = 255
    ours = pixel_cross_entropy(logits, labels, class_weight=[1.0, 0.5, 2.0, 0.0, 3.0])
    monkeypatch.setattr(losses, "on_cpu", lambda x: False)
    assert_equal(ours, pixel_cross_entropy(logits, labels, class_weight=[1.0, 0.5, 2.0, 0.0, 3.0]), [logits])
