"""3 x 3 convolutions as products: the values and gradients of Paddle's own."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_seg.convolution import Conv3x3


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (3, 4, 4, 4), (2, 1, 1, 1), (1, 2, 1, 6)])
def test_a_3x3_convolution_equals_paddles(shape):
    paddle.seed(1)
    layer, x = Conv3x3(shape[1], 6), paddle.randn(list(shape))
    x.stop_gradient = False
    ours, plain = layer(x), F.conv2d(x, layer.weight, padding=1)
    assert ours.shape == plain.shape
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=2e-6)
    factors = paddle.randn(plain.shape)
    for one, other in zip(paddle.grad((ours * factors).sum(), [x, layer.weight]),
                          paddle.grad((plain * factors).sum(), [x, layer.weight])):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)


def test_a_frozen_kernel_and_a_picture_without_gradient():
    layer, x = Conv3x3(2, 3), paddle.randn([1, 2, 4, 4])
    (layer(x) ** 2).sum().backward()
    assert x.grad is None and layer.weight.grad.shape == [3, 2, 3, 3]
    layer.weight.stop_gradient = True
    assert layer(x).stop_gradient
    x.stop_gradient = False
    (layer(x) ** 2).sum().backward()
    assert x.grad.shape == [1, 2, 4, 4]
