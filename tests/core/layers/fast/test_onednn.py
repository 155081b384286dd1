# SPDX-License-Identifier: Apache-2.0
"""oneDNN's element-wise operations: the numbers of float64, the broadcasts of attention, and a way without it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import paddle
import pytest
from scipy.special import erf, softmax

from beitv2_core.layers.attention import split_heads
from beitv2_core.layers.block import Block
from beitv2_core.layers.fast import layout, onednn

pytestmark = pytest.mark.skipif(not onednn.usable(), reason="this Paddle brings no oneDNN")


def drawn(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype("float32")


def test_layer_norm_and_its_gradients():
    x, dy, gain, shift = 3 * drawn(6, 5, 96) + 5, drawn(30, 96, seed=1), drawn(96, seed=2), drawn(96, seed=3)
    given = [paddle.to_tensor(one) for one in (x, gain, shift)]
    normed = onednn.layer_norm(*given, 1e-6)
    rows = x.reshape(30, 96).astype("float64")
    centred, variance = rows - rows.mean(1, keepdims=True), rows.var(1, keepdims=True)
    xhat = centred / np.sqrt(variance + 1e-6)
    np.testing.assert_allclose(normed.y_RD.numpy(), xhat * gain + shift, atol=2e-6)
    found = onednn.layer_norm_gradient(given[0], paddle.to_tensor(dy), *normed[1:], *given[1:], 1e-6)
    along = dy * gain.astype("float64")
    dx = (along - along.mean(1, keepdims=True) - xhat * (along * xhat).mean(1, keepdims=True)) / np.sqrt(
        variance + 1e-6)
    for made, expected in zip(found, (dx, (dy * xhat).sum(0), dy.sum(0))):
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_gelu_and_its_gradient():
    x = np.linspace(-6, 6, 10001).astype("float32")
    wide = x.astype("float64")
    cdf = 0.5 * (1 + erf(wide / np.sqrt(2)))
    np.testing.assert_allclose(onednn.gelu(paddle.to_tensor(x)).numpy(), wide * cdf, atol=1e-6)
    slope = cdf + wide * np.exp(-wide**2 / 2) / np.sqrt(2 * np.pi)
    dy = paddle.full([10001], 2.0)
    assert onednn.gelu_gradient_(dy, paddle.to_tensor(x)) is dy
    np.testing.assert_allclose(dy.numpy(), 2 * slope, atol=1e-6)


def test_softmax():
    x = 4 * drawn(2, 3, 5, 7)
    made = onednn.softmax_(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(made, softmax(x.astype("float64"), -1), atol=2e-7)


@pytest.mark.parametrize("other", [(2, 3, 5, 7), (1, 3, 5, 7), (7,), (5, 7), (2, 3, 5, 1), (2, 1, 1, 1)])
def test_sums_differences_and_products_broadcast(other):
    x, y = drawn(2, 3, 5, 7), drawn(*other, seed=1)
    for work, expected in ((onednn.add_, x + y), (onednn.subtract_, x - y), (onednn.multiply_, x * y)):
        given = paddle.to_tensor(x)
        assert work(given, paddle.to_tensor(y)) is given
        np.testing.assert_allclose(given.numpy(), expected, rtol=1e-6)
    given = paddle.to_tensor(x)
    np.testing.assert_allclose(onednn.multiply(given, paddle.to_tensor(y)).numpy(), x * y, rtol=1e-6)
    assert np.array_equal(given.numpy(), x)


def test_a_changed_layout_has_the_same_numbers():
    x = drawn(2, 5, 3, 4, 6)
    made = layout.permute(paddle.to_tensor(x), [2, 0, 3, 1, 4])
    assert np.array_equal(made.numpy(), x.transpose(2, 0, 3, 1, 4))


def test_a_transposed_tensor_has_the_gradient_of_its_own_axes():
    x, factors = paddle.to_tensor(drawn(2, 3, 4, 5)), paddle.to_tensor(drawn(2, 4, 5, 3, seed=1))
    x.stop_gradient = False
    made = layout.transpose(x, [0, 2, 3, 1])
    (made * factors).sum().backward()
    assert np.array_equal(made.numpy(), x.numpy().transpose(0, 2, 3, 1))
    assert np.array_equal(x.grad.numpy(), factors.numpy().transpose(0, 3, 1, 2))


@pytest.mark.parametrize("add", [False, True])
def test_a_part_is_copied_or_added_and_nothing_else_changes(add):
    x, y = drawn(2, 3, 6, 7), drawn(2, 3, 5, 4, seed=1)
    target, expected = paddle.to_tensor(y), y.copy()
    assert layout.copy_part_(target, paddle.to_tensor(x), (2, 3, 4, 2), (0, 0, 1, 2), (0, 0, 2, 5), add=add) is target
    expected[:, :, 1:5, 2:] = x[:, :, 2:, 5:] + (expected[:, :, 1:5, 2:] if add else 0)
    assert np.array_equal(target.numpy(), expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_joined_heads_are_the_reverse_of_split_ones(count):
    x = drawn(2, 5, count * 4 * 6)
    parts = paddle.unbind(split_heads(paddle.to_tensor(x), count, 4))
    assert np.array_equal(layout.join_heads(*parts).numpy(), x.reshape(10, -1))


@pytest.mark.parametrize("other", [(1, 3, 1, 7), (2, 1, 5, 7), (3,)])
def test_a_shape_that_is_neither_row_nor_column_is_refused(other):
    with pytest.raises(ValueError, match="neither a row nor a column"):
        onednn.add_(paddle.zeros([2, 3, 5, 7]), paddle.zeros(other))


def test_everything_a_base_block_asks_for_has_fast_code():
    rows, width = 8 * 197, 768
    made = [onednn._layer_norm(rows, width, 1e-6), onednn._layer_norm_gradient(rows, width, 1e-6),
            onednn._gelu(rows * 3072), onednn._gelu_gradient(rows * 3072), onednn._softmax(8 * 12 * 197, 197)]
    for sizes, other in (((8, 12, 197, 197), (1, 12, 197, 197)), ((8, 12, 197, 197), (8, 12, 197, 1)),
                         ((rows, 3072), (3072,)), ((8, 197, 768), (8, 1, 1)), ((rows, width), (rows, width))):
        made.append(onednn._binary(onednn._ADD, *onednn._as_matrices(sizes, other)))
    made.append(layout._permute((8, 197, 3, 12, 64), (2, 0, 3, 1, 4)))
    assert [one.implementation for one in made if not one.is_fast] == []


def test_threads_of_one_process_do_not_take_one_anothers_tensors():
    given, wrong = [drawn(64, 96, seed=seed) for seed in range(4)], []

    def work(x):
        expected = softmax(x.astype("float64"), -1)
        for _ in range(200):
            if np.abs(onednn.softmax_(paddle.to_tensor(x)).numpy() - expected).max() > 1e-6:
                wrong.append(x)

    threads = [threading.Thread(target=work, args=(x,)) for x in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_tensor_of_another_type_is_refused_not_misread():
    with pytest.raises(onednn.OneDnnError, match="float64"):
        onednn.add_(paddle.zeros([2, 3]), paddle.zeros([3], dtype="float64"))


STRIDED = """
import sys
import paddle  # first: Paddle then makes strided views of transposed tensors
import beitv2_core
from beitv2_core.layers.block import Block
paddle.seed(0)
block = Block(24, 3, init_values=0.1, grid=(2, 2))
for parameter in block.parameters():
    parameter.set_value(0.4 * paddle.randn(parameter.shape))
queries, weight = paddle.to_tensor([[0, 2], [3, 1], [4, 2]]), paddle.randn([3, 5, 24])
worst = 0.0
for tokens in (paddle.randn([3, 5, 24]), paddle.randn([5, 3, 24]).transpose([1, 0, 2])):
    for index in (None, queries):
        found = []
        for run in (block, block.compose):
            x = tokens.detach()
            x.stop_gradient = False
            y = run(x, None, index)
            (y * weight[:, : y.shape[1]]).transpose([1, 0, 2]).sum().backward()
            found.append([y, x.grad, *(one.grad for one in block.parameters())])
            block.clear_gradients()
        worst = max([worst, *(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found))])
print(paddle.get_flags("FLAGS_use_stride_kernel")["FLAGS_use_stride_kernel"], worst)
"""


def test_strided_views_give_the_same_numbers():
    """Where Paddle was imported first, or a user has FLAGS_use_stride_kernel=1, memory is not in a tensor's order."""
    environment = {**os.environ, "FLAGS_use_stride_kernel": "1"}
    shown = subprocess.run([sys.executable, "-W", "ignore", "-c", STRIDED], env=environment, capture_output=True,
                           text=True, check=True, timeout=120).stdout.split()
    assert shown[-2] == "True" and 0 < float(shown[-1]) < 1e-5


def test_without_the_library_a_block_runs_by_its_layers_and_one_warning_says_so(monkeypatch, recwarn, tmp_path):
    block, x = Block(12, 3, init_values=0.1), paddle.to_tensor(drawn(2, 5, 12))
    fast = block(x).numpy()
    monkeypatch.setattr(paddle, "__file__", str(tmp_path / "__init__.py"))  # a wheel without libs/
    onednn._library.cache_clear()
    try:
        plain = [block(x).numpy() for _ in range(2)]
        assert not onednn.usable()
    finally:
        onednn._library.cache_clear()
    np.testing.assert_allclose(plain[0], fast, atol=1e-6)
    said = [str(one.message) for one in recwarn if "oneDNN" in str(one.message)]
    assert len(said) == 1 and "plain layers" in said[0] and "bfloat16" in said[0]
