# SPDX-License-Identifier: Apache-2.0
"""oneDNN's convolutions give what Paddle's give, with everything that follows them, alone and in a chain."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.layers.fast.convolution import Chain, Convolution, Step
from beitv2_core.layers.fast.onednn import OneDnnError


def drawn(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("channels, out, side, stride, groups, padding", [
    (3, 32, 3, 2, 1, ((0, 1), (0, 1))), (16, 16, 5, 1, 16, ((2, 2), (2, 2))), (24, 24, 5, 2, 24, ((1, 2), (2, 1))),
    (16, 40, 1, 1, 1, ((0, 0), (0, 0)))])
@pytest.mark.parametrize("most", [None, 6.0])
def test_a_convolution_equals_paddles(images, channels, out, side, stride, groups, padding, most):
    weight, bias, x = drawn(out, channels // groups, side, side), drawn(out, seed=1), drawn(images, channels, 9, 12)
    wanted = F.conv2d(paddle.to_tensor(x), paddle.to_tensor(weight), paddle.to_tensor(bias), stride,
                      [*padding[0], *padding[1]], 1, groups).numpy()
    wanted = wanted if most is None else wanted.clip(0, most)
    convolution = Convolution(weight, bias, stride=stride, groups=groups, most=most)
    first = Step(Convolution(np.eye(channels, dtype=np.float32)[:, :, None, None], np.zeros(channels)), "x", "copy",
                 lambda size: (0, 0))
    rows_then_columns = iter(padding)
    second = Step(convolution, "copy", "y", lambda size: next(rows_then_columns))
    got = Chain([first, second], (images, 9, 12, channels))
    for _ in range(2):
        made = got(paddle.to_tensor(x).transpose([0, 2, 3, 1])).numpy()
        np.testing.assert_allclose(made.transpose(0, 3, 1, 2), wanted, rtol=1e-4, atol=1e-4)


def test_an_output_is_added_to_what_its_memory_holds_and_given_as_a_copy():
    weights = [drawn(8, 8, 1, 1, seed=seed) for seed in range(3)]
    around = lambda size: (0, 0)  # noqa: E731
    steps = [Step(Convolution(weight, drawn(8, seed=9)), source, target, around, adds) for weight, source, target, adds
             in zip(weights, ("x", "map", "wide"), ("map", "wide", "map"), (False, False, True))]
    chain, x = Chain(steps, (2, 5, 3, 8)), drawn(2, 5, 3, 8)
    one, two, three = (weight[:, :, 0, 0].T for weight in weights)
    first = x @ one + drawn(8, seed=9)
    wanted = first + (first @ two + drawn(8, seed=9)) @ three + drawn(8, seed=9)
    got = chain(paddle.to_tensor(x))
    other = chain(paddle.to_tensor(2 * x))
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-4)
    assert not np.allclose(other.numpy(), wanted)


def test_clipping_what_is_added_to_is_refused():
    convolution = Convolution(drawn(4, 4, 1, 1), drawn(4), most=6.0)
    with pytest.raises(OneDnnError, match="not both"):
        convolution.compile((1, 2, 2, 4), ((0, 0), (0, 0)), adds=True)
