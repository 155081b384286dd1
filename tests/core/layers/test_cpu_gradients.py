"""The CPU formulations give the values and gradients of the plain ones."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.layers.attention import Attention
from beitv2_core.layers.layer_norm import LayerNorm
from beitv2_core.layers.linear import linear, scaled_residual, uses_cpu_gradients
from beitv2_core.layers.mlp import Mlp


def leaf(*shape):
    tensor = paddle.randn(list(shape))
    tensor.stop_gradient = False
    return tensor


def gradients(output, inputs):
    weights = paddle.to_tensor(np.random.RandomState(3).randn(*output.shape).astype("float32"))
    return paddle.grad((output * weights).sum(), inputs)


def assert_equal(ours, plain, inputs):
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=2e-6)
    for one, other in zip(gradients(ours, inputs), gradients(plain, inputs)):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-5, rtol=2e-5)


def test_linear():
    x, weight, bias = leaf(2, 5, 6), leaf(6, 4), leaf(4)
    assert uses_cpu_gradients(x)
    assert_equal(linear(x, weight, bias), F.linear(x, weight, bias), [x, weight, bias])


def test_linear_of_an_input_without_gradient_and_without_recording():
    x, weight, bias = paddle.randn([3, 6]), leaf(6, 4), leaf(4)
    assert_equal(linear(x, weight, bias), F.linear(x, weight, bias), [weight, bias])
    with paddle.no_grad():
        assert linear(x, weight, bias).stop_gradient


def test_scaled_residual():
    x, y, gamma = leaf(2, 5, 6), leaf(2, 5, 6), leaf(6)
    assert_equal(scaled_residual(x, y, gamma), x + y * gamma, [x, y, gamma])


def test_layer_norm():
    x, ours = leaf(2, 5, 6), LayerNorm(6, epsilon=1e-6)
    ours.weight.set_value(paddle.randn([6]))
    ours.bias.set_value(paddle.randn([6]))
    plain = F.layer_norm(x, [6], ours.weight, ours.bias, 1e-6)
    assert_equal(ours(x), plain, [x, ours.weight, ours.bias])


@pytest.mark.parametrize("biased", [False, True])
def test_attention(biased):
    attention = Attention(12, 3, grid=(2, 2) if biased else None)
    for parameter in attention.parameters():
        parameter.set_value(0.3 * paddle.randn(parameter.shape))
    x = leaf(2, 5, 12)
    q, k, v = attention.heads(x)
    scores = paddle.matmul(q * attention.scale, k, transpose_y=True)
    if biased:
        scores = scores + attention._total_bias(None)
    plain = attention.proj(paddle.matmul(F.softmax(scores, axis=-1), v).transpose([0, 2, 1, 3]).flatten(2))
    assert_equal(attention(x), plain, [x, *attention.parameters()])
    np.testing.assert_allclose(attention.probabilities(x).numpy(), F.softmax(scores, axis=-1).numpy(), atol=1e-6)


def test_mlp():
    mlp, x = Mlp(6, 24), leaf(2, 5, 6)
    for parameter in mlp.parameters():
        parameter.set_value(0.5 * paddle.randn(parameter.shape))
    plain = F.linear(F.gelu(F.linear(x, mlp.fc1.weight, mlp.fc1.bias)), mlp.fc2.weight, mlp.fc2.bias)
    assert_equal(mlp(x), plain, [x, *mlp.parameters()])
