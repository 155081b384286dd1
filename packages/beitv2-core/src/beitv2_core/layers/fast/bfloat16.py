# SPDX-License-Identifier: Apache-2.0
"""Products of bfloat16 numbers by oneDNN (`onednn.py`), which eager Paddle cannot compute on the CPU.

The functions record no gradient.

Source: oneDNN 3.2 (Paddle 2.6) and 3.6 (Paddle 3.3), dnnl.h and dnnl_types.h; the numbers used are equal in both.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import paddle

from beitv2_core.layers.fast.onednn import (
    _FLOAT32,
    _PRIMITIVES,
    _WEIGHT,
    _X,
    _Y,
    _describe,
    _loaded,
    _new,
    _Primitive,
    _shape,
)

_BFLOAT16 = 2  # dnnl_data_type_t


def as_bfloat16(x: paddle.Tensor) -> paddle.Tensor:
    """x rounded to the nearest bfloat16 numbers, ties to even."""
    convert = _conversion(math.prod(x.shape), _FLOAT32, _BFLOAT16)
    if not convert.is_fast and not paddle.__version__.startswith("2."):  # whose own conversion cuts off
        return x.astype("bfloat16")
    y = paddle.empty(x.shape, dtype="bfloat16")
    convert(x, y)
    return y


def as_float32(x: paddle.Tensor) -> paddle.Tensor:
    """The numbers of a bfloat16 tensor as float32; a float32 tensor itself."""
    if x.dtype == paddle.float32:
        return x
    convert = _conversion(math.prod(x.shape), _BFLOAT16, _FLOAT32)
    if not convert.is_fast:
        return x.astype("float32")
    y = _new(*x.shape)
    convert(x, y)
    return y


@functools.lru_cache(maxsize=_PRIMITIVES)
def _conversion(size: int, source: int, target: int) -> _Primitive:
    x, y, engine = _shape((size,), source), _shape((size,), target), _loaded().engine
    return _Primitive(_describe("reorder", x, engine, y, engine, None), [(_X, x), (_Y, y)],
                      "a conversion of bfloat16 numbers", bfloat16=(0,) if source == _BFLOAT16 else (1,))


def matmul_bfloat16(x: paddle.Tensor, y: paddle.Tensor, transpose_x: bool, transpose_y: bool) -> paddle.Tensor:
    """x @ y of bfloat16 tensors (..., M, K) and (..., K, N) with equal first axes, float32; the sums are float32 too.

    transpose_x, transpose_y: the last two axes of that tensor are (K, M), (N, K).
    """
    x_sizes, y_sizes = tuple(x.shape), tuple(y.shape)
    rows, columns = x_sizes[-1 if transpose_x else -2], y_sizes[-2 if transpose_y else -1]
    made = _new(*x_sizes[:-2], rows, columns)
    _matmul(x_sizes, y_sizes, transpose_x, transpose_y)(x, y, made)
    return made


@functools.lru_cache(maxsize=_PRIMITIVES)
def _matmul(x_sizes: tuple[int, ...], y_sizes: tuple[int, ...], transpose_x: bool, transpose_y: bool) -> _Primitive:
    x, y = _matrices(x_sizes, transpose_x), _matrices(y_sizes, transpose_y)
    rows, columns = x_sizes[-1 if transpose_x else -2], y_sizes[-2 if transpose_y else -1]
    made = _shape((*x_sizes[:-2], rows, columns))
    return _Primitive(_describe("matmul", _loaded().engine, x, y, None, made, None),
                      [(_X, x), (_WEIGHT, y), (_Y, made)], f"a bfloat16 product of {x_sizes} and {y_sizes}",
                      bfloat16=(0, 1))


def _matrices(sizes: tuple[int, ...], transposed: bool) -> Any:
    if not transposed:
        return _shape(sizes, _BFLOAT16)
    *batch, rows, columns = sizes
    strides = tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(batch)))
    return _shape((*batch, columns, rows), _BFLOAT16, (*strides, 1, columns))
