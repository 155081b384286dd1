# SPDX-License-Identifier: Apache-2.0
"""Changes of layout in several threads, by oneDNN (`onednn.py`): Paddle's own CPU kernels for them use one.

All tensors are on the CPU and float32.  The functions record no gradient, except `transpose`.

Shape suffixes: `layers/__init__.py`.
Source: oneDNN 3.2 (Paddle 2.6) and 3.6 (Paddle 3.3), dnnl.h and dnnl_types.h; the numbers used are equal in both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import paddle
from paddle.autograd import PyLayer

from beitv2_core.layers.fast.onednn import (
    _FLOAT32,
    _PRIMITIVES,
    _X,
    _Y,
    OneDnnError,
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

_FIRST_OF_SEVERAL = 1024  # DNNL_ARG_MULTIPLE_SRC


def permute(x: paddle.Tensor, order: Sequence[int]) -> paddle.Tensor:
    """`x.transpose(order)`, contiguous."""
    sizes = tuple(x.shape)
    made = _new(*(sizes[axis] for axis in order))
    _permute(sizes, tuple(order))(x, made)
    return made


@functools.lru_cache(maxsize=_PRIMITIVES)
def _permute(sizes: tuple[int, ...], order: tuple[int, ...]) -> _Primitive:
    permuted, engine = tuple(sizes[axis] for axis in order), _loaded().engine
    x = _shape(permuted, _FLOAT32, tuple(math.prod(sizes[axis + 1 :]) for axis in order))
    y = _shape(permuted)
    return _Primitive(_describe("reorder", x, engine, y, engine, None), [(_X, x), (_Y, y)], "a change of layout")


class _Transpose(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, order: tuple[int, ...]) -> paddle.Tensor:
        ctx.back = sorted(range(len(order)), key=order.__getitem__)
        return permute(x, order)

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> paddle.Tensor:
        return permute(dy, ctx.back)


def transpose(x: paddle.Tensor, order: Sequence[int]) -> paddle.Tensor:
    """`x.transpose(order)`, with its gradient."""
    return _Transpose.apply(x, tuple(order))


def join_heads(*parts_BHTE: paddle.Tensor) -> paddle.Tensor:
    """Tensors (B, H, T, E) -> (B * T, count * H * E), the reverse of `split_heads`."""
    batch, heads, tokens, head_width = parts_BHTE[0].shape
    made = _new(batch * tokens, len(parts_BHTE) * heads * head_width)
    _join_heads(len(parts_BHTE), batch, heads, tokens, head_width)(*parts_BHTE, made)
    return made


@functools.lru_cache(maxsize=_PRIMITIVES)
def _join_heads(count: int, batch: int, heads: int, tokens: int, head_width: int) -> _Primitive:
    part = _shape((batch, tokens, heads, head_width), _FLOAT32,
                  (heads * tokens * head_width, head_width, tokens * head_width, 1))
    joined, along = _shape((batch, tokens, count * heads, head_width)), 2
    description = _describe("concat", _loaded().engine, joined, count, along, (_Handle * count)(*[part] * count), None)
    return _Primitive(description, [*((_FIRST_OF_SEVERAL + place, part) for place in range(count)), (_Y, joined)],
                      "joined heads")


def copy_part_(y: paddle.Tensor, x: paddle.Tensor, sizes: Sequence[int], y_at: Sequence[int], x_at: Sequence[int], *,
               add: bool = False) -> paddle.Tensor:
    """Copy the part of x that begins at `x_at` to the part of y that begins at `y_at`.

    sizes: of the part, along every axis.  add: add it to what is there.  Returns y, whose memory it is; raises
    OneDnnError where that is a strided view.
    """
    if not y.is_contiguous():
        raise OneDnnError("a part is copied to a strided view; expected a contiguous tensor.")
    _copy_part(tuple(y.shape), tuple(x.shape), tuple(sizes), tuple(y_at), tuple(x_at), add)(x, y)
    return y


@functools.lru_cache(maxsize=_PRIMITIVES)
def _copy_part(target: tuple[int, ...], source: tuple[int, ...], sizes: tuple[int, ...], target_at: tuple[int, ...],
               source_at: tuple[int, ...], add: bool) -> _Primitive:
    x, y = _part_of(source, sizes, source_at), _part_of(target, sizes, target_at)
    engine = _loaded().engine
    attributes = _then(adds=True) if add else None
    try:
        description = _describe("reorder", x, engine, y, engine, attributes)
    finally:
        if attributes is not None:
            _check(_loaded().calls.dnnl_primitive_attr_destroy(attributes), "the end of a description")
    return _Primitive(description, [(_X, x), (_Y, y)], f"a copy of a part {sizes} of {source} to {target}")
