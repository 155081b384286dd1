# SPDX-License-Identifier: Apache-2.0
"""Convolutions of frozen networks on the CPU, in several threads: oneDNN (`onednn`), with the channels last.

Paddle's own kernel for convolutions of single channels computes 1 to 3 GFLOP/s, in one thread.

Shape suffixes: `layers/__init__.py`.
Source: oneDNN 3.2 (Paddle 2.6) and 3.6 (Paddle 3.3), dnnl.h and dnnl_types.h; the numbers used are equal in both.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray

from beitv2_core.layers.fast.onednn import (
    _FLOAT32,
    _INFERENCE,
    _WEIGHT,
    _X,
    _Y,
    _check,
    _describe,
    _Handle,
    _loaded,
    _Primitive,
    _shape,
    _then,
)

_DIRECT = 1  # dnnl_alg_kind_t
_ANY_FORMAT, _QUERY_WEIGHTS, _BIAS = 1, 131, 41  # dnnl_format_tag_t, dnnl_query_t, DNNL_ARG_BIAS
Padding = tuple[tuple[int, int], tuple[int, int]]


class Convolution:
    """A convolution with bias; its output may be clipped to [0, `most`], or be added to a tensor.

    weight: float32 (out, in / groups, k, k); bias: (out,).  Compiled for every shape of images that comes.
    """

    def __init__(self, weight: NDArray[Any], bias: NDArray[Any], *, stride: int = 1, groups: int = 1,
                 most: float | None = None):
        self.out, self.side, self.stride, self.most = weight.shape[0], weight.shape[2], stride, most
        if groups > 1:
            weight = weight.reshape(groups, self.out // groups, *weight.shape[1:])
        self._weight = paddle.to_tensor(np.ascontiguousarray(weight, dtype=np.float32))
        self._bias = paddle.to_tensor(np.ascontiguousarray(bias, dtype=np.float32))
        self._made: dict[Any, tuple[_Primitive, paddle.Tensor, tuple[int, ...]]] = {}

    def __call__(self, x_BhwC: paddle.Tensor, padding: Padding,
                 added_BhwC: paddle.Tensor | None = None) -> paddle.Tensor:
        """The output (B, h, w, out), with `added_BhwC` where given, which has that shape.

        padding: before and after the rows, before and after the columns.  The last bits of an output may
        depend on the number of images.
        """
        key = (*x_BhwC.shape, padding, added_BhwC is None)
        if key not in self._made:
            self._made[key] = self._compile(tuple(x_BhwC.shape), padding, added_BhwC is not None)
        primitive, weight, sizes = self._made[key]
        y_BhwC = paddle.empty(sizes, dtype="float32") if added_BhwC is None else added_BhwC.clone()
        primitive(x_BhwC, weight, self._bias, y_BhwC)
        return y_BhwC

    def _compile(self, sizes: tuple[int, ...], padding: Padding,
                 adds: bool) -> tuple[_Primitive, paddle.Tensor, tuple[int, ...]]:
        """The primitive for images of that shape, the weight in the order that it wants, the output's shape."""
        batch, height, width, channels = sizes
        rows, columns = ((size + sum(around) - self.side) // self.stride + 1
                         for size, around in zip((height, width), padding))
        x, y = _channels_last(batch, height, width, channels), _channels_last(batch, rows, columns, self.out)
        shape = tuple(self._weight.shape)
        after = _then(adds=adds, most=self.most)
        try:
            description = _describe(
                "convolution_forward", _loaded().engine, _INFERENCE, _DIRECT, x, _any_order(shape), _shape((self.out,)),
                y, *(_pair(*values) for values in ((self.stride, self.stride), (0, 0), (padding[0][0], padding[1][0]),
                                                (padding[0][1], padding[1][1]))), after)
        finally:
            _check(_loaded().calls.dnnl_primitive_attr_destroy(after), "the end of a description")
        ask, size_of = _loaded().calls.dnnl_primitive_desc_query_md, _loaded().calls.dnnl_memory_desc_get_size
        ask.restype, size_of.restype = ctypes.c_void_p, ctypes.c_size_t
        wanted = _Handle(ask(description, _QUERY_WEIGHTS, 0))
        primitive = _Primitive(description, [(_X, x), (_WEIGHT, wanted), (_BIAS, _shape((self.out,))), (_Y, y)],
                               "a convolution")
        weight = paddle.zeros([size_of(wanted) // 4], dtype="float32")
        engine, given = _loaded().engine, _shape(shape)
        _Primitive(_describe("reorder", given, engine, wanted, engine, None), [(_X, given), (_Y, wanted)],
                   "the order of a weight")(self._weight, weight)
        return primitive, weight, (batch, rows, columns, self.out)


def _channels_last(batch: int, height: int, width: int, channels: int) -> Any:
    strides = (height * width * channels, 1, width * channels, channels)
    return _shape((batch, channels, height, width), _FLOAT32, strides)


@functools.cache
def _any_order(shape: tuple[int, ...]) -> Any:
    description = _Handle()
    _check(_loaded().calls.dnnl_memory_desc_create_with_tag(
        ctypes.byref(description), len(shape), (ctypes.c_int64 * 12)(*shape), _FLOAT32, _ANY_FORMAT), f"shape {shape}")
    return description


def _pair(first: int, second: int) -> Any:
    return (ctypes.c_int64 * 12)(first, second)
