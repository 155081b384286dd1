# SPDX-License-Identifier: Apache-2.0
"""Products of numbers rounded to bfloat16: only products are rounded, forward and backward, and nothing else changes.

Where the processor does not multiply bfloat16 numbers, the same values are computed from rounded float32 numbers.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core import runtime
from beitv2_core.errors import ConfigError
from beitv2_core.layers.block import Block
from beitv2_core.layers.fast import bfloat16 as bfloat16_file
from beitv2_core.layers.fast import products
from beitv2_core.layers.fast.bfloat16 import _Seen
from beitv2_core.layers.fast.heads import HeadProduct, groups, join_products, lay_out, multiply_heads
from beitv2_core.layers.fast.linear import linear
from beitv2_core.layers.fast.products import (
    mixed_precision,
    operand,
    product,
    product_and_bias,
    rounding,
    sum_over_rows,
    why_not,
)

EPS = 2.0**-8  # largest relative error of rounding to bfloat16


@pytest.fixture(params=["1", "0"], ids=["float32 units", "bfloat16 units"])
def bfloat16(request, monkeypatch):
    monkeypatch.setenv(products.EMULATE, request.param)
    reason = why_not("bf16")
    if reason is not None:
        pytest.skip(reason)


def leaf(*shape):
    tensor = paddle.to_tensor(np.random.RandomState(sum(shape)).randn(*shape).astype("float32"))
    tensor.stop_gradient = False
    return tensor


def rounded(x):
    """To the nearest bfloat16 numbers, ties to even, by the bits."""
    bits = x.numpy().view("uint32").astype("uint64")
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return paddle.to_tensor(bits.astype("uint32").view("float32"))


@pytest.mark.parametrize(("transpose_x", "transpose_y"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_a_product_is_that_of_the_rounded_operands(bfloat16, batch, transpose_x, transpose_y):
    x = leaf(*batch, *((7, 5) if transpose_x else (5, 7)))
    y = leaf(*batch, *((4, 7) if transpose_y else (7, 4)))
    made = product(x, y, True, transpose_x=transpose_x, transpose_y=transpose_y)
    assert made.dtype == paddle.float32 and made.stop_gradient
    expected = paddle.matmul(rounded(x), rounded(y), transpose_x, transpose_y).numpy()
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(made.numpy() - paddle.matmul(x, y, transpose_x, transpose_y).numpy()).max() > 1e-4


@pytest.mark.parametrize(("transpose_x", "transpose_y"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("already", [False, True], ids=["float32", "bfloat16"])
def test_many_rows_times_a_matrix_in_another_order(bfloat16, already, transpose_x, transpose_y):
    """From 512 rows on the second operand is written in the order that oneDNN wants; odd sizes are filled up there."""
    x = leaf(*((37, 600) if transpose_x else (600, 37)))
    y = leaf(*((75, 37) if transpose_y else (37, 75)))
    made = product(x, operand(y, already), True, transpose_x=transpose_x, transpose_y=transpose_y)
    expected = paddle.matmul(rounded(x), rounded(y), transpose_x, transpose_y).numpy()
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [6, 600])
@pytest.mark.parametrize("rounds", [False, True])
def test_a_bias_is_added_before_the_result_is_rounded(bfloat16, rows, rounds):
    x, weight, bias = leaf(2, rows // 2, 5), leaf(5, 7), leaf(7)
    made = product_and_bias(x, weight, bias, True, rounds=rounds)
    expected = paddle.matmul(rounded(x), rounded(weight)) + bias
    assert made.shape == [2, rows // 2, 7] and made.dtype == (paddle.bfloat16 if rounds else paddle.float32)
    np.testing.assert_allclose(made.astype("float32").numpy(), expected.numpy(), rtol=EPS if rounds else 1e-5,
                               atol=1e-5)


def test_sums_over_rows_are_of_the_numbers_given(bfloat16):
    x = operand(leaf(600, 7), True)
    made = sum_over_rows(x)
    assert made.dtype == paddle.float32
    np.testing.assert_allclose(made.numpy(), x.astype("float32").sum(axis=0).numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("counts", [(3,), (1, 2)], ids=["one matrix", "queries and keys, values"])
def test_products_of_heads_where_they_lie(bfloat16, counts):
    """Scores with scale and bias, outputs and gradients, all from matrices (B * T, count * H * E) and into such."""
    batch, heads, tokens, width, queries = 2, 3, 7, 4, 7 if counts == (3,) else 5
    sizes = [queries if count == 1 else tokens for count in counts]
    matrices = [leaf(batch * size, count * heads * width) for size, count in zip(sizes, counts)]
    q, k, v = (group for matrix, count in zip(matrices, counts)
               for group in groups(lay_out(matrix, count, batch, heads, True), count, batch, heads))
    plain = [rounded(matrix).reshape([batch, -1, count, heads, width]).transpose([2, 0, 3, 1, 4])[at]
             for matrix, count in zip(matrices, counts) for at in range(count)]
    bias = leaf(1, heads, queries, tokens)
    scores = multiply_heads(q, k, True, transpose_y=True, factor=0.3, plus=bias)
    np.testing.assert_allclose(scores.numpy(), (0.3 * plain[0] @ plain[1].transpose([0, 1, 3, 2]) + bias).numpy(),
                               rtol=1e-5, atol=1e-5)

    def matrix_of(parts):
        stacked = paddle.stack(parts)  # (count, B, H, T, E)
        return stacked.transpose([1, 3, 0, 2, 4]).reshape([-1, len(parts) * heads * width]).numpy()

    out = join_products([HeadProduct(scores, v)], True)
    np.testing.assert_allclose(out.astype("float32").numpy(), matrix_of([rounded(scores) @ plain[2]]), rtol=EPS,
                               atol=1e-5)
    both = join_products([HeadProduct(scores, q, True, 0.3), HeadProduct(scores, q, True)], True)
    product_of_q = rounded(scores).transpose([0, 1, 3, 2]) @ plain[0]
    np.testing.assert_allclose(both.astype("float32").numpy(), matrix_of([0.3 * product_of_q, product_of_q]), rtol=EPS,
                               atol=1e-5)


def test_one_matrix_multiplies_every_image(bfloat16):
    x, y = leaf(4, 7), leaf(2, 7, 5)
    np.testing.assert_allclose(product(x, y, True).numpy(), paddle.matmul(rounded(x), rounded(y)).numpy(), atol=1e-5)


def test_an_operand_is_rounded_to_nearest_ties_to_even(bfloat16):
    x = paddle.to_tensor(np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1e-40, 0.0], dtype="float32"))
    made = operand(x, True)
    assert made.dtype == paddle.bfloat16 and operand(made, True) is made
    np.testing.assert_array_equal(made.astype("float32").numpy()[:3], [1.0, 1 + 2**-6, -1.0])


def gradients(output, inputs):
    weights = paddle.to_tensor(np.random.RandomState(3).randn(*output.shape).astype("float32"))
    (output * weights).sum().backward()  # outside `mixed_precision`
    found = [one.grad.numpy() for one in inputs]
    for one in inputs:
        one.clear_gradient()
    return [output.numpy(), *found]


def test_a_linear_map_rounds_its_three_products_and_not_its_bias(bfloat16):
    x, weight, bias = leaf(6, 5), leaf(5, 4), leaf(4)
    with mixed_precision("bf16"):
        y = linear(x, weight, bias)
    made, dx, dweight, dbias = gradients(y, [x, weight, bias])
    dy = paddle.to_tensor(np.random.RandomState(3).randn(6, 4).astype("float32"))
    np.testing.assert_allclose(made, (paddle.matmul(rounded(x), rounded(weight)) + bias).numpy(), atol=1e-5)
    np.testing.assert_allclose(dx, paddle.matmul(rounded(dy), rounded(weight), transpose_y=True).numpy(), atol=1e-5)
    np.testing.assert_allclose(dweight, paddle.matmul(rounded(x), rounded(dy), transpose_x=True).numpy(), atol=1e-5)
    np.testing.assert_allclose(dbias, dy.sum(0).numpy(), atol=1e-5)


BLOCKS = {"pretraining": dict(init_values=0.1), "fine-tuning": dict(init_values=0.1, grid=(2, 2), drop_path=0.4),
          "tokenizer": dict()}
QUERIES = paddle.to_tensor([[0, 2], [3, 1], [4, 2]])


@pytest.mark.parametrize("queries", [None, QUERIES], ids=["all tokens", "some queries"])
@pytest.mark.parametrize("settings", BLOCKS.values(), ids=BLOCKS)
def test_a_blocks_gradients_differ_from_float32_by_bfloat16s_rounding(bfloat16, settings, queries):
    """Every tensor by at most a few roundings of its largest value: 8 products follow one another."""
    block, x, shared = Block(64, 4, **settings), leaf(3, 5, 64), leaf(1, 4, 5, 5)
    block.train()
    inputs = [x, shared, *block.parameters()]

    def run(amp):
        paddle.seed(5)
        with mixed_precision(amp):
            y = block(x, shared, queries)
        return gradients(y, inputs)

    exact, mixed = run("off"), run("bf16")
    for one, other in zip(exact, mixed):
        assert np.abs(one - other).max() <= 8 * EPS * np.abs(one).max()
    assert any(np.abs(one - other).max() > 0 for one, other in zip(exact, mixed))


def test_off_is_float32_whatever_surrounds_it(bfloat16):
    x, weight, bias = leaf(3, 6), leaf(6, 4), leaf(4)
    with mixed_precision("bf16"):
        assert rounding()
        with mixed_precision("off"):
            assert not rounding()
            inner = linear(x, weight, bias)
        assert rounding()
    assert not rounding()
    np.testing.assert_allclose(inner.numpy(), F.linear(x, weight, bias).numpy(), rtol=1e-5, atol=1e-5)


def test_an_error_inside_ends_it(bfloat16):
    with pytest.raises(KeyError), mixed_precision("bf16"):
        raise KeyError
    assert not rounding()


def test_a_processor_without_bfloat16_refuses_it_in_one_line(without_bfloat16):
    with pytest.raises(ConfigError, match=r"bf16: this processor does not multiply .*avx512_bf16.*: avx2\)") as refused:
        mixed_precision("bf16")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("flags", "units"), [("avx512_bf16 avx512_fp16", "float32"), ("avx512_bf16", "bfloat16"),
                                              ("avx512_bf16 avx512_fp16 amx_bf16", "bfloat16")])
def test_bfloat16_units_that_are_slower_than_the_float32_ones_are_not_used(tmp_path, monkeypatch, flags, units):
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f {flags}\n\n")
    monkeypatch.setattr(runtime, "CPUINFO", str(tmp_path / "cpuinfo"))
    monkeypatch.delenv(products.EMULATE, raising=False)
    used = []
    monkeypatch.setattr(products, "matmul_bfloat16", lambda *_: used.append("bfloat16"))
    monkeypatch.setattr(products.paddle, "matmul", lambda *_: used.append("float32"))
    product(paddle.ones([2, 2]), paddle.ones([2, 2]), True)
    assert used == [units]


def test_float16_and_unknown_names_are_refused_on_the_cpu():
    with pytest.raises(ConfigError, match="only a GPU computes float16"):
        mixed_precision("fp16")
    with pytest.raises(ConfigError, match="expected 'off', 'bf16' or 'fp16'"):
        mixed_precision("half")


def compile_product(x, y, transpose_x, transpose_y, *, made=None, plus=None, packs=False):
    sizes = (*x.sizes[:-2], x.sizes[-1 if transpose_x else -2], y.sizes[-2 if transpose_y else -1])
    return bfloat16_file._matmul(x, y, transpose_x, transpose_y, made or _Seen(sizes, 3), False,
                                  0.125 if plus else 1.0, plus, packs)


@pytest.mark.skipif(not runtime.has_bfloat16(), reason="this processor does not multiply bfloat16 numbers")
def test_the_products_of_a_base_model_have_fast_code():
    tokens, width = 8 * 197, 768
    for x, y, transpose_x, transpose_y in [((tokens, width), (width, 3072), False, False),
                                           ((tokens, width), (tokens, 3072), True, False),
                                           ((tokens, 3072), (width, 3072), False, True)]:
        compiled = compile_product(_Seen(x, 2), _Seen(y, 3), transpose_x, transpose_y, packs=True)
        assert compiled.compute.is_fast and compiled.pack.is_fast
    matrix, weights = _Seen((8, 12, 197, 64), 2, (3, 1)), _Seen((8, 12, 197, 197), 2)
    products_of_heads = [(matrix, matrix, False, True, None, (1, 12, 197, 197)),
                         (weights, matrix, True, False, matrix, None)]
    if paddle.__version__.startswith("2."):  # the heads are laid out one after the other
        together = _Seen((8, 12, 197, 64), 2)
        products_of_heads = [(together, together, False, True, None, None),
                             (weights, together, True, False, None, None)]
    for x, y, transpose_x, transpose_y, made, plus in products_of_heads:
        assert compile_product(x, y, transpose_x, transpose_y, made=made, plus=plus).compute.is_fast
    assert bfloat16_file._conversion(tokens * width, 3, 2).is_fast
