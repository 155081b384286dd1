# SPDX-License-Identifier: Apache-2.0
"""The bias of relative positions by pieces is the one by its index, and so is its gradient."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.layers.attention import RelativePositionBias, bias_of
from beitv2_core.layers.fast.linear import SWITCH
from beitv2_core.rel_pos_index import relative_position_index, table_rows

GRIDS = [(1, 1), (1, 4), (4, 1), (2, 3), (3, 2), (7, 7), (14, 9)]


def both(grid, monkeypatch, dtype="float32"):
    """{plain: (bias, gradient of the table)} of one random table and one random gradient of the bias."""
    draws, tokens = np.random.RandomState(0), 1 + grid[0] * grid[1]
    values = draws.randn(table_rows(grid), 5).astype("float32")
    dy = paddle.to_tensor(draws.randn(1, 5, tokens, tokens).astype("float32")).astype(dtype)
    index, found = paddle.to_tensor(relative_position_index(grid)), {}
    for plain in ("0", "1"):
        monkeypatch.setenv(SWITCH, plain)
        table = paddle.to_tensor(values, dtype=dtype)
        table.stop_gradient = False
        bias = bias_of(table, index, grid)
        bias.backward(dy)
        found[plain] = (bias.astype("float32").numpy(), table.grad.astype("float32").numpy())
    return found


@pytest.mark.parametrize("grid", GRIDS)
def test_equals_the_selection_by_the_index(grid, monkeypatch):
    found = both(grid, monkeypatch)
    np.testing.assert_array_equal(found["0"][0], found["1"][0])
    np.testing.assert_allclose(found["0"][1], found["1"][1], atol=2e-5, rtol=2e-6)  # sums in another order


def test_another_type_is_selected_by_the_index(monkeypatch):
    found = both((2, 3), monkeypatch, "float64")
    np.testing.assert_array_equal(found["0"][1], found["1"][1])


def test_a_gradient_that_is_no_whole_piece_of_memory():
    shared = RelativePositionBias((3, 2), 4)
    dy = paddle.randn([1, 7, 7, 4])
    shared().backward(dy.transpose([0, 3, 1, 2]))
    strided = shared.relative_position_bias_table.grad.numpy()
    shared.clear_gradients()
    shared().backward(paddle.to_tensor(np.ascontiguousarray(dy.numpy().transpose(0, 3, 1, 2))))
    np.testing.assert_array_equal(strided, shared.relative_position_bias_table.grad.numpy())


def test_a_frozen_table_has_no_gradient():
    shared = RelativePositionBias((2, 2), 3)
    shared.relative_position_bias_table.stop_gradient = True
    assert shared().stop_gradient
    with paddle.no_grad():
        assert shared().shape == [1, 3, 5, 5]
