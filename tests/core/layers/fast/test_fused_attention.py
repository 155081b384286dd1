# SPDX-License-Identifier: Apache-2.0
"""Attention through Paddle's fused kernels equals the formula, or is not used.

On the CPU Paddle 3 answers with its own plain computation: what is tested is everything around a GPU's kernels.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.layers.attention import attention_weights
from beitv2_core.layers.block import Block
from beitv2_core.layers.fast import fused_attention as fused_file
from beitv2_core.layers.fast.fused_attention import SWITCH

pytestmark = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2 has no such kernel on the CPU")
SAMPLES, HEADS, TOKENS, WIDTH = 3, 2, 5, 4


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The fused attention asked for, nothing known of it; the shapes Paddle's kernel was called with."""
    kernel, seen = F.scaled_dot_product_attention, []

    def counted(q, k, v, attn_mask=None):
        seen.append((tuple(q.shape), tuple(k.shape), None if attn_mask is None else tuple(attn_mask.shape)))
        return kernel(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(fused_file, "_kernel_is_accurate", {})
    monkeypatch.setenv(SWITCH, "1")
    return seen


def fused_attention(q, k, v, bias):
    return fused_file.fused_attention(q, k, v, bias, formula=attention_weights)


def leaf(*shape):
    tensor = paddle.randn(list(shape))
    tensor.stop_gradient = False
    return tensor


def value_and_gradients(work, inputs):
    out = work()
    (out * paddle.arange(out.size, dtype="float32").reshape(out.shape).sin()).sum().backward()
    found = [out.numpy(), *(one.grad.numpy() for one in inputs)]
    for one in inputs:
        one.clear_gradient()
    return found


def assert_equal(ours, plain):
    for one, other in zip(ours, plain):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("queries", [TOKENS, 2], ids=["all tokens", "some queries"])
@pytest.mark.parametrize("samples_of_bias", [None, 1, SAMPLES], ids=["no bias", "shared bias", "a bias a sample"])
def test_values_and_gradients_are_the_formulas(calls, queries, samples_of_bias):
    q, k, v = (leaf(SAMPLES, HEADS, rows, WIDTH) for rows in (queries, TOKENS, TOKENS))
    bias = None if samples_of_bias is None else leaf(samples_of_bias, HEADS, queries, TOKENS)
    inputs = [q, k, v] + ([] if bias is None else [bias])
    plain = value_and_gradients(lambda: paddle.matmul(attention_weights(q, k, bias), v), inputs)
    assert_equal(value_and_gradients(lambda: fused_attention(q, k, v, bias), inputs), plain)
    assert calls, "the kernel was not called"


def test_a_mask_is_given_for_every_sample_in_rows_the_kernels_can_read(calls):
    q, k, v = (leaf(SAMPLES, HEADS, TOKENS, WIDTH) for _ in range(3))
    fused_attention(q, k, v, leaf(1, HEADS, TOKENS, TOKENS))
    assert set(calls) == {((SAMPLES, TOKENS, HEADS, WIDTH), (SAMPLES, 8, HEADS, WIDTH), (SAMPLES, HEADS, TOKENS, 8))}


@pytest.mark.parametrize("queries", [None, paddle.to_tensor([[0, 2], [3, 1], [4, 2]])], ids=["all tokens", "some"])
def test_a_block_gives_the_same_with_and_without(monkeypatch, calls, queries):
    block, x = Block(12, 3, init_values=0.1, grid=(2, 2)), leaf(3, 5, 12)
    for parameter in block.parameters():
        parameter.set_value(0.4 * paddle.randn(parameter.shape))
    inputs = [x, *block.parameters()]
    fused = value_and_gradients(lambda: block.compose(x, None, queries), inputs)
    assert len(calls) == 2, "once to be checked, once to be used"
    monkeypatch.setenv(SWITCH, "0")
    assert_equal(fused, value_and_gradients(lambda: block.compose(x, None, queries), inputs))
    assert len(calls) == 2


def test_nothing_of_the_size_of_the_attention_weights_is_kept():
    q, k, v = (leaf(2, 2, 64, 4) for _ in range(3))
    kept = []
    with paddle.autograd.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
        fused_attention(q, k, v, leaf(1, 2, 64, 64))
    assert kept and [2, 2, 64, 64] not in kept


def test_frozen_values_and_a_frozen_bias_get_no_gradient():
    q, k, v = leaf(1, 1, 3, 4), leaf(1, 1, 3, 4), paddle.randn([1, 1, 3, 4])
    bias = paddle.randn([1, 1, 3, 3])
    fused = value_and_gradients(lambda: fused_attention(q, k, v, bias), [q, k])
    assert_equal(fused, value_and_gradients(lambda: paddle.matmul(attention_weights(q, k, bias), v), [q, k]))
    assert v.grad is None and bias.grad is None


@pytest.mark.parametrize("answer, told", [
    (lambda q, *_, **__: q * 0, "differs from the formula by 1 of the largest value"),
    (lambda q, *_, **__: q * float("nan"), "differs from the formula by nan"),
])
def test_a_kernel_that_answers_something_else_is_not_used_and_told_once(monkeypatch, recwarn, answer, told):
    monkeypatch.setattr(F, "scaled_dot_product_attention", answer)
    q, k, v = (leaf(1, 1, 3, 4) for _ in range(3))
    assert fused_attention(q, k, v, None) is None and fused_attention(q, k, v, None) is None
    assert [told in str(one.message) for one in recwarn] == [True]


@pytest.mark.parametrize("error, told", [
    (RuntimeError("(InvalidArgument)\nthe kernel should not be launched"), "the kernel should not be launched"),
    (NotImplementedError(), "NotImplementedError")])
def test_a_kernel_that_fails_is_not_used(monkeypatch, error, told):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(F, "scaled_dot_product_attention", refuse)
    with pytest.warns(UserWarning, match=rf"kernel fails \({told}\) for queries \(1, 1, 3, 4\) of"):
        assert fused_attention(*(leaf(1, 1, 3, 4) for _ in range(3)), None) is None


def test_without_the_switch_the_formula_is_used(monkeypatch, calls):
    monkeypatch.delenv(SWITCH)
    assert fused_attention(*(leaf(1, 1, 3, 4) for _ in range(3)), None) is None and not calls
