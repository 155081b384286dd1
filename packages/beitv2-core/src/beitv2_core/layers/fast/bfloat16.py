# SPDX-License-Identifier: Apache-2.0
"""Products of bfloat16 numbers by oneDNN (`onednn.py`), which eager Paddle cannot compute on the CPU.

The functions record no gradient.

Shape suffixes: `layers/__init__.py`.
Source: oneDNN 3.2 (Paddle 2.6) and 3.6 (Paddle 3.3), dnnl.h and dnnl_types.h; the numbers used are equal in both.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any, NamedTuple

import paddle

from beitv2_core.layers.fast.onednn import (
    _BIAS,
    _FLOAT32,
    _FOLLOWING,
    _OTHER,
    _PRIMITIVES,
    _WEIGHT,
    _X,
    _Y,
    _check,
    _describe,
    _Handle,
    _loaded,
    _new,
    _part_of,
    _Primitive,
    _shape,
    _then,
)
from beitv2_core.layers.fast.ordering import any_order, reordering, wanted_order

_BFLOAT16 = 2  # dnnl_data_type_t
# From so many rows on a product is faster by more than it costs to write its second operand in another order.
_ROWS_TO_PACK = 512


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


class Heads(NamedTuple):
    """A group of heads (B, H, T, E) where it lies: one of `total` in a bfloat16 matrix (B * T, total * H * E)."""

    matrix_RO: paddle.Tensor
    total: int
    at: int
    batch: int
    heads: int

    @property
    def shape(self) -> list[int]:
        """B, H, T and E."""
        rows, inner = self.matrix_RO.shape
        return [self.batch, self.heads, rows // self.batch, inner // (self.total * self.heads)]


def matmul_bfloat16(x: paddle.Tensor | Heads, y: paddle.Tensor | Heads, transpose_x: bool, transpose_y: bool, *,
                    bias: paddle.Tensor | None = None, factor: float = 1.0, plus: paddle.Tensor | None = None,
                    into: paddle.Tensor | Heads | None = None) -> paddle.Tensor:
    """factor * (x @ y + bias) + plus of bfloat16 (..., M, K) and (..., K, N) with equal first axes.

    The sums are float32; what follows them costs no pass over memory.  A matrix y may be float32 too: it is rounded.
    transpose_x, transpose_y: the last two axes of that tensor are (K, M), (N, K).  bias: float32 (N,).  plus: float32
    of the result's shape, or with ones for its first axes.  into: what is written to and returned, of heads the
    whole matrix, bfloat16 or float32; by default a new float32 tensor.
    """
    rows, columns = x.shape[-1 if transpose_x else -2], y.shape[-2 if transpose_y else -1]
    packs = len(y.shape) == 2 and rows >= _ROWS_TO_PACK
    if not packs and isinstance(y, paddle.Tensor):
        y = as_bfloat16(y) if y.dtype == paddle.float32 else y
    made = _new(*x.shape[:-2], rows, columns) if into is None else into
    compute, pack, packed = _matmul(_seen(x), _seen(y), transpose_x, transpose_y, _seen(made), bias is not None, factor,
                                    None if plus is None else (1,) * (len(made.shape) - plus.ndim) + tuple(plus.shape),
                                    packs)
    y = _memory(y)
    if pack is not None:
        given, y = y, paddle.empty([packed], dtype="bfloat16")
        pack(given, y)
    compute(*(_memory(one) for one in (x, y, made, bias, plus) if one is not None))
    return _memory(made)


class _Seen(NamedTuple):
    """How the memory of an operand is seen: its axes, of heads also where they lie, and its type."""

    sizes: tuple[int, ...]
    kind: int
    place: tuple[int, int] | None = None  # total and at


def _seen(x: paddle.Tensor | Heads) -> _Seen:
    if isinstance(x, Heads):
        return _Seen(tuple(x.shape), _BFLOAT16, (x.total, x.at))
    return _Seen(tuple(x.shape), _FLOAT32 if x.dtype == paddle.float32 else _BFLOAT16)


def _memory(x: paddle.Tensor | Heads) -> paddle.Tensor:
    return x.matrix_RO if isinstance(x, Heads) else x


class _Product(NamedTuple):
    """A compiled product; `pack` writes its second operand, as it is given, in the order wanted: `packed` numbers."""

    compute: _Primitive
    pack: _Primitive | None
    packed: int


@functools.lru_cache(maxsize=_PRIMITIVES)
def _matmul(x: _Seen, y: _Seen, transpose_x: bool, transpose_y: bool, made: _Seen, biased: bool, factor: float,
            plus: tuple[int, ...] | None, packs: bool) -> _Product:
    x_shape, y_shape, made_shape = _described(x, transpose_x), _described(y, transpose_y), _described(made)
    bias = _shape((*(1,) * (len(made.sizes) - 1), made.sizes[-1])) if biased else None
    attributes = _then(factor=factor, plus=None if plus is None else _shape(plus))
    asked = any_order(y.sizes[::-1] if transpose_y else y.sizes, _BFLOAT16) if packs else y_shape
    try:
        description = _describe("matmul", _loaded().engine, x_shape, asked, bias, made_shape, attributes)
    finally:
        _check(_loaded().calls.dnnl_primitive_attr_destroy(attributes), "the end of a description")
    pack, size, used = None, 0, y_shape
    if packs:
        used, size = wanted_order(description)
        pack = reordering(y_shape, used, (0, 1) if y.kind == _BFLOAT16 else (1,))
    arguments = [(_X, x_shape), (_WEIGHT, used), (_Y, made_shape)]
    if bias is not None:
        arguments.append((_BIAS, bias))
    if plus is not None:
        arguments.append((_FOLLOWING * (1 if factor == 1 else 2) | _OTHER, _shape(plus)))
    compute = _Primitive(description, arguments, f"a bfloat16 product of {x.sizes} and {y.sizes}",
                         bfloat16=(0, 1) if made.kind == _FLOAT32 else (0, 1, 2))
    return _Product(compute, pack, size // 2)


@functools.cache
def _described(seen: _Seen, transposed: bool = False) -> Any:
    *batch, rows, columns = seen.sizes
    if seen.place is None:
        if not transposed:
            return _shape(seen.sizes, seen.kind)
        strides = tuple(math.prod(seen.sizes[axis + 1 :]) for axis in range(len(batch)))
        return _shape((*batch, columns, rows), seen.kind, (*strides, 1, columns))
    (samples, heads), (total, at) = batch, seen.place
    turned, part = _Handle(), _part_of((samples, rows, total * heads, columns), (samples, rows, heads, columns),
                                       (0, 0, at * heads, 0), seen.kind)
    axes = (ctypes.c_int * 4)(*((0, 3, 1, 2) if transposed else (0, 2, 1, 3)))  # axis a of part is axes[a] of turned
    _check(_loaded().calls.dnnl_memory_desc_permute_axes(ctypes.byref(turned), part, axes), "heads in a matrix")
    return turned
