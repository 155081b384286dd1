# SPDX-License-Identifier: Apache-2.0
"""The CPU formulations give the values and gradients of the plain ones."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.layers.attention import Attention
from beitv2_core.layers.block import Block
from beitv2_core.layers.fast import heads
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.linear import linear, uses_cpu_gradients


def leaf(*shape):
    tensor = paddle.randn(list(shape))
    tensor.stop_gradient = False
    return tensor


def gradients(output, inputs):
    weights = paddle.to_tensor(np.random.RandomState(3).randn(*output.shape).astype("float32"))
    (output * weights).sum().backward()  # not paddle.grad: it loses inputs of a PyLayer that has a frozen one
    found = [one.grad.clone() for one in inputs]
    for one in inputs:
        one.clear_gradient()
    return found


def assert_equal(ours, plain, inputs):
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=4e-6)  # a few roundings of values up to 10
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


def test_linear_with_a_frozen_bias():
    x, weight, bias = leaf(3, 6), leaf(6, 4), paddle.randn([4])
    assert_equal(linear(x, weight, bias), F.linear(x, weight, bias), [x, weight])


def test_layer_norm():
    x, ours = leaf(2, 5, 6), LayerNorm(6, epsilon=1e-6)
    ours.weight.set_value(paddle.randn([6]))
    ours.bias.set_value(paddle.randn([6]))
    plain = F.layer_norm(x, [6], ours.weight, ours.bias, 1e-6)
    assert_equal(ours(x), plain, [x, ours.weight, ours.bias])


BLOCKS = {
    "pretraining": dict(init_values=0.1),
    "fine-tuning": dict(init_values=0.1, grid=(2, 2), drop_path=0.4),
    "tokenizer": dict(),
    "no qkv bias": dict(qkv_bias=False, init_values=0.1),
    "width of a head": dict(head_width=6),
}
QUERIES = paddle.to_tensor([[0, 2], [3, 1], [4, 2]])


def block_of(**settings):
    block = Block(12, 3, **settings)
    for parameter in block.parameters():
        parameter.set_value(0.4 * paddle.randn(parameter.shape))
    block.train()
    return block


def seeded(work):
    paddle.seed(5)  # drop path draws the same
    return work()


@pytest.mark.parametrize("queries", [None, QUERIES], ids=["all tokens", "some queries"])
@pytest.mark.parametrize("settings", BLOCKS.values(), ids=BLOCKS)
def test_a_block_on_the_cpu_equals_its_layers(settings, queries):
    block, x = block_of(**settings), leaf(3, 5, 12)
    shared = leaf(1, 3, 5, 5)
    ours = seeded(lambda: block(x, shared, queries))
    plain = seeded(lambda: block.compose(x, shared, queries))
    assert_equal(ours, plain, [x, shared, *block.parameters()])


@pytest.mark.parametrize("settings", BLOCKS.values(), ids=BLOCKS)
def test_the_queries_are_those_of_the_whole_result(settings):
    block, x = block_of(**settings), leaf(3, 5, 12)
    whole = seeded(lambda: block(x, None)).numpy()
    some = seeded(lambda: block(x, None, QUERIES)).numpy()
    np.testing.assert_allclose(some, np.take_along_axis(whole, QUERIES.numpy()[:, :, None], 1), rtol=1e-5, atol=1e-5)


def test_a_partly_frozen_block_gives_gradients_to_the_rest():
    block, x = block_of(init_values=0.1, grid=(2, 2)), paddle.randn([3, 5, 12])
    for parameter in (block.attn.proj.weight, block.gamma_2, block.mlp.fc1.bias):
        parameter.stop_gradient = True
    learnt = [parameter for parameter in block.parameters() if not parameter.stop_gradient]
    assert_equal(block(x), block.compose(x), learnt)


def test_a_frozen_block_records_nothing():
    block = block_of(init_values=0.1)
    for parameter in block.parameters():
        parameter.stop_gradient = True
    assert block(paddle.randn([3, 5, 12])).stop_gradient


def test_dropout_takes_the_layers_themselves():
    block, x = block_of(drop_rate=0.5, attn_drop_rate=0.2), leaf(3, 5, 12)
    ours, plain = seeded(lambda: block(x)), seeded(lambda: block.compose(x))
    np.testing.assert_array_equal(ours.numpy(), plain.numpy())
    block.eval()
    assert_equal(block(x), block.compose(x), [x, *block.parameters()])


@pytest.mark.parametrize("biased", [False, True])
def test_attention_map(biased):
    attention, x = Attention(12, 3, grid=(2, 2) if biased else None), leaf(2, 5, 12)
    for parameter in attention.parameters():
        parameter.set_value(0.3 * paddle.randn(parameter.shape))
    q, k, v = attention.heads(x)
    scores = paddle.matmul(q / 2, k, transpose_y=True)  # sqrt(4), the width of a head
    if biased:
        scores = scores + attention.total_bias(None)
    weights = F.softmax(scores, axis=-1)
    np.testing.assert_allclose(attention.probabilities(x).numpy(), weights.numpy(), atol=1e-6)
    plain = attention.proj(paddle.matmul(weights, v).transpose([0, 2, 1, 3]).flatten(2))
    assert_equal(attention(x), plain, [x, *attention.parameters()])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_queries_keys_and_values_are_parts_of_what_is_kept(dtype):
    """`Tensor._slice` is Paddle's own name, and private: a copy, or another part, would show here."""
    stack = paddle.randn([3, 2, 4, 5, 6]).astype(dtype)
    parts = heads.groups(stack, 3, 2, 4)
    for at, part in enumerate(parts):
        assert part.data_ptr() == parts[0].data_ptr() + at * 2 * 4 * 5 * 6 * part.element_size()
        np.testing.assert_array_equal(part.astype("float32").numpy(), stack.astype("float32").numpy()[at])
    assert parts[0].data_ptr() == stack.data_ptr()


def test_numbers_of_another_width_are_left_to_the_layers():
    """What is computed in the memory of tensors is written for float32 alone."""
    x, block, norm = paddle.randn([2, 5, 12]).astype("float64"), Block(12, 3), LayerNorm(12)
    for layer in (block, norm):
        layer.to(dtype="float64")
    x.stop_gradient = False
    np.testing.assert_allclose(block(x).numpy(), block.compose(x).numpy(), rtol=1e-12)
    weight, bias = paddle.randn([12, 4]).astype("float64"), paddle.randn([4]).astype("float64")
    np.testing.assert_allclose(linear(x, weight, bias).numpy(), (x.numpy() @ weight.numpy() + bias.numpy()), rtol=1e-12)
    np.testing.assert_allclose(norm(x).numpy(), F.layer_norm(x, [12], norm.weight, norm.bias, 1e-5).numpy(), rtol=1e-12)
