# SPDX-License-Identifier: Apache-2.0
"""oneDNN's convolutions give what Paddle's give, with everything that follows them."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.layers.fast.convolution import Convolution
from beitv2_core.layers.fast.onednn import OneDnnError


def drawn(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("channels, out, side, stride, groups, padding", [
    (3, 32, 3, 2, 1, ((0, 1), (0, 1))), (16, 16, 5, 1, 16, ((2, 2), (2, 2))), (24, 24, 5, 2, 24, ((1, 2), (2, 1))),
    (16, 40, 1, 1, 1, ((0, 0), (0, 0)))])
@pytest.mark.parametrize("most, adds", [(None, False), (6.0, False), (None, True)])
def test_a_convolution_equals_paddles(images, channels, out, side, stride, groups, padding, most, adds):
    weight, bias, x = drawn(out, channels // groups, side, side), drawn(out, seed=1), drawn(images, channels, 9, 12)
    wanted = F.conv2d(paddle.to_tensor(x), paddle.to_tensor(weight), paddle.to_tensor(bias), stride,
                      [*padding[0], *padding[1]], 1, groups).numpy()
    added = drawn(*wanted.shape, seed=2) if adds else None
    wanted = wanted + added if adds else wanted if most is None else wanted.clip(0, most)
    convolution = Convolution(weight, bias, stride=stride, groups=groups, most=most)
    last = None if added is None else paddle.to_tensor(added).transpose([0, 2, 3, 1])
    for _ in range(2):  # compiled, then kept
        got = convolution(paddle.to_tensor(x).transpose([0, 2, 3, 1]), padding, last).numpy()
        np.testing.assert_allclose(got.transpose(0, 3, 1, 2), wanted, rtol=1e-4, atol=1e-4)
    if adds:
        np.testing.assert_array_equal(last.numpy(), added.transpose(0, 2, 3, 1))  # read, not written


def test_clipping_what_is_added_to_is_refused():
    convolution = Convolution(drawn(4, 4, 1, 1), drawn(4), most=6.0)
    x = paddle.to_tensor(drawn(1, 2, 2, 4))
    with pytest.raises(OneDnnError, match="not both"):
        convolution(x, ((0, 0), (0, 0)), x)
