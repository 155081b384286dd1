# SPDX-License-Identifier: Apache-2.0
"""Bicubic resizing: what holds for PyTorch's filter on any grid."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ShapeError
from beitv2_core.layers.interpolate import bicubic_matrix, bicubic_resize


@pytest.mark.parametrize("old, new, scale", [(4, 6, None), (14, 9, None), (4, 6, 6.1 / 4), (7, 1, None), (1, 5, None)])
def test_every_sample_is_an_average_of_the_input(old, new, scale):
    matrix = bicubic_matrix(old, new, scale)
    assert matrix.shape == (new, old)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-12)


def test_the_same_size_changes_nothing():
    np.testing.assert_allclose(bicubic_matrix(5, 5), np.eye(5), atol=1e-12)


def test_halfway_weights_are_those_of_the_coefficient_three_quarters():
    # Twice the size samples at a quarter of a pixel: Keys' cubic with a = -0.75 there.
    expected = [0, 0, -0.03515625, 0.26171875, 0.87890625, -0.10546875, 0, 0]
    np.testing.assert_allclose(bicubic_matrix(8, 16)[8], expected, atol=1e-12)


def test_the_scale_moves_the_samples_not_the_size():
    plain, shifted = bicubic_matrix(4, 6), bicubic_matrix(4, 6, 6.1 / 4)
    assert plain.shape == shifted.shape and np.abs(plain - shifted).max() > 0.01


def test_both_layouts_agree_and_rows_are_not_columns():
    table = paddle.rand([3, 5, 2])
    resized = bicubic_resize(table, (6, 4), (6.1 / 3, 4.1 / 5))
    batch = bicubic_resize(table.transpose([2, 0, 1]).unsqueeze(0), (6, 4), (6.1 / 3, 4.1 / 5))
    assert list(resized.shape) == [6, 4, 2]
    np.testing.assert_allclose(resized.numpy(), batch[0].transpose([1, 2, 0]).numpy(), atol=1e-6)
    expected = np.einsum("ih,hwc,jw->ijc", bicubic_matrix(3, 6, 6.1 / 3), table.numpy(), bicubic_matrix(5, 4, 4.1 / 5))
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-6)


def test_the_gradient_returns_to_every_position():
    table = paddle.rand([1, 2, 4, 4])
    table.stop_gradient = False
    bicubic_resize(table, (7, 6)).sum().backward()
    assert float(table.grad.sum()) == pytest.approx(2 * 7 * 6, rel=1e-5)


@pytest.mark.parametrize("shape, size", [([4, 4], (2, 2)), ([1, 2, 4, 4], (0, 3))])
def test_impossible_resizes_name_the_shape(shape, size):
    with pytest.raises(ShapeError, match="cannot resize"):
        bicubic_resize(paddle.rand(shape), size)
