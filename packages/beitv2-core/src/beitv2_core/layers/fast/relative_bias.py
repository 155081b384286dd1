# SPDX-License-Identifier: Apache-2.0
"""The relative position bias on the CPU: rows of a window's neighbourhood are copied and summed as wholes.

Paddle's selection and its gradient walk through T * T rows of H values, in one thread, and are transposed after.
(1024 patches, 12 heads, one thread: 60 and 90 ms; here 14 and 17 ms.)

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import paddle
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from paddle.autograd import PyLayer

from beitv2_core.rel_pos_index import EXTRA_ROWS, table_rows

Floats = NDArray[np.float32]


def relative_bias(table_PH: paddle.Tensor, grid: tuple[int, int]) -> paddle.Tensor:
    """`layers.attention.bias_of` of a float32 table (P, H) on the CPU: (1, H, T, T)."""
    return _RelativeBias.apply(table_PH, grid)


class _RelativeBias(PyLayer):
    @staticmethod
    def forward(ctx: Any, table_PH: paddle.Tensor, grid: tuple[int, int]) -> paddle.Tensor:
        ctx.grid = grid
        rows, columns = grid
        offsets, heads, tokens = table_rows(grid) - EXTRA_ROWS, table_PH.shape[1], 1 + rows * columns
        table = _memory(table_PH).T
        # backwards, so that a query's keys are a piece of it that is read forwards
        back = table[:, offsets - 1 :: -1].reshape(heads, 2 * rows - 1, 2 * columns - 1)
        bias = paddle.empty([1, heads, tokens, tokens], dtype="float32")
        pairs = _memory(bias)[0]
        of_head, of_row, of_column = back.strides
        for row, queries in enumerate(_patch_rows(pairs, grid)):
            first = back[:, rows - 1 - row :, columns - 1 :]  # of the first query; the next ones begin a column earlier
            queries[...] = as_strided(first, queries.shape, (of_head, -of_column, of_row, of_column))
        pairs[:, 0], pairs[:, :, 0], pairs[:, 0, 0] = (table[:, offsets, None], table[:, offsets + 1, None],
                                                       table[:, offsets + 2])
        return bias

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> paddle.Tensor:
        rows, columns = ctx.grid
        dy = dy.contiguous()
        pairs = _memory(dy)[0]
        heads, offsets = pairs.shape[0], table_rows(ctx.grid) - EXTRA_ROWS
        sums = np.zeros((heads, 2 * rows - 1, 2 * columns - 1), np.float32)  # backwards, as above
        for row, queries in enumerate(_patch_rows(pairs, ctx.grid)):
            for column in range(columns):
                sums[:, rows - 1 - row : 2 * rows - 1 - row, columns - 1 - column : 2 * columns - 1 - column] += (
                    queries[:, column])
        gradient = np.empty((offsets + EXTRA_ROWS, heads), np.float32)
        gradient[:offsets] = sums.reshape(heads, offsets)[:, ::-1].T
        gradient[offsets], gradient[offsets + 1], gradient[offsets + 2] = (
            pairs[:, 0, 1:].sum(axis=1), pairs[:, 1:, 0].sum(axis=1), pairs[:, 0, 0])
        return paddle.to_tensor(gradient, place=dy.place)


def _memory(tensor: paddle.Tensor) -> Floats:
    """The values of a contiguous float32 tensor on the CPU; not a copy, which `Tensor.numpy` is."""
    values = (ctypes.c_float * tensor.size).from_address(tensor.data_ptr())
    return np.frombuffer(values, np.float32).reshape(tensor.shape)


def _patch_rows(pairs: Floats, grid: tuple[int, int]) -> list[Floats]:
    """Views (H, columns of queries, rows of keys, columns of keys) of pairs (H, T, T), one for every row of queries."""
    rows, columns = grid
    of_head, of_query, of_key = pairs.strides
    shape, strides = (pairs.shape[0], columns, rows, columns), (of_head, of_query, columns * of_key, of_key)
    return [as_strided(pairs[:, 1 + row * columns :, 1:], shape, strides) for row in range(rows)]
