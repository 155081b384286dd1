# SPDX-License-Identifier: Apache-2.0
"""Convolutions of frozen networks on the CPU, in several threads: oneDNN (`onednn`), with the channels last.

Paddle's own kernel for convolutions of single channels computes 1 to 3 GFLOP/s, in one thread.

Shape suffixes: `layers/__init__.py`.
Source: oneDNN 3.2 (Paddle 2.6) and 3.6 (Paddle 3.3), dnnl.h and dnnl_types.h; the numbers used are equal in both.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray

from beitv2_core.layers.fast.onednn import (
    _BIAS,
    _FLOAT32,
    _INFERENCE,
    _WEIGHT,
    _X,
    _Y,
    _check,
    _describe,
    _loaded,
    _Primitive,
    _shape,
    _then,
)
from beitv2_core.layers.fast.ordering import any_order, reordering, wanted_order

_DIRECT = 1  # dnnl_alg_kind_t
Padding = tuple[tuple[int, int], tuple[int, int]]


class Convolution:
    """A convolution with bias; its output may be clipped to [0, `most`].  A step of a `Chain`.

    weight: float32 (out, in / groups, k, k); bias: (out,).
    """

    def __init__(self, weight: NDArray[Any], bias: NDArray[Any], *, stride: int = 1, groups: int = 1,
                 most: float | None = None):
        self.out, self.side, self.stride, self.most = weight.shape[0], weight.shape[2], stride, most
        if groups > 1:
            weight = weight.reshape(groups, self.out // groups, *weight.shape[1:])
        self.weight = paddle.to_tensor(np.ascontiguousarray(weight, dtype=np.float32))
        self.bias = paddle.to_tensor(np.ascontiguousarray(bias, dtype=np.float32))

    def compile(self, sizes: tuple[int, ...], padding: Padding,
                adds: bool) -> tuple[_Primitive, paddle.Tensor, tuple[int, ...]]:
        """The primitive for a map (B, h, w, C) of those sizes, the weight as it wants it, the sizes of the output.

        padding: before and after the rows, before and after the columns.  adds: the output is added to what its
        memory holds.
        """
        batch, height, width, channels = sizes
        rows, columns = ((size + sum(around) - self.side) // self.stride + 1
                         for size, around in zip((height, width), padding))
        x, y = _channels_last(batch, height, width, channels), _channels_last(batch, rows, columns, self.out)
        shape = tuple(self.weight.shape)
        after = _then(adds=adds, most=self.most)
        try:
            description = _describe(
                "convolution_forward", _loaded().engine, _INFERENCE, _DIRECT, x, any_order(shape), _shape((self.out,)),
                y, *(_pair(*values) for values in ((self.stride, self.stride), (0, 0), (padding[0][0], padding[1][0]),
                                                (padding[0][1], padding[1][1]))), after)
        finally:
            _check(_loaded().calls.dnnl_primitive_attr_destroy(after), "the end of a description")
        wanted, size = wanted_order(description)
        primitive = _Primitive(description, [(_X, x), (_WEIGHT, wanted), (_BIAS, _shape((self.out,))), (_Y, y)],
                               "a convolution")
        weight = paddle.zeros([size // 4], dtype="float32")
        reordering(_shape(shape), wanted)(self.weight, weight)
        return primitive, weight, (batch, rows, columns, self.out)


class Step(NamedTuple):
    """A convolution of a chain.

    source, target: names of the memory it reads and writes; around(size): padding before and after an axis.
    adds: the output is added to what the target holds.
    """

    convolution: Convolution
    source: str
    target: str
    around: Callable[[int], tuple[int, int]]
    adds: bool = False


class Chain:
    """Convolutions one after the other, compiled for maps (B, h, w, C) of one shape.

    sizes: of the map that the first step reads.  What lies between the steps is in memory that the chain keeps, a
    tensor a name: to ask Paddle for it takes longer than a convolution of a small map.  Raises OneDnnError for a step
    that clips and adds.
    """

    def __init__(self, steps: Sequence[Step], sizes: tuple[int, ...]):
        places, largest = {steps[0].source: sizes}, dict.fromkeys((step.target for step in steps), 0)
        self._runs = []
        for step in steps:
            before = places[step.source]
            primitive, weight, after = step.convolution.compile(
                before, (step.around(before[1]), step.around(before[2])), step.adds)
            places[step.target] = after
            largest[step.target] = max(largest[step.target], math.prod(after))
            self._runs.append((primitive, weight))
        self._memory = {name: paddle.empty([size], dtype="float32") for name, size in largest.items()}
        for step, (primitive, weight) in zip(steps[1:], self._runs[1:]):
            primitive.bind(self._memory[step.source], weight, step.convolution.bias, self._memory[step.target])
        self._first, self._last, self._out = steps[0], steps[-1].target, after
        self._lock = threading.Lock()

    def __call__(self, x_BhwC: paddle.Tensor) -> paddle.Tensor:
        """A copy of the last output (B, h, w, out), for a map of `sizes`; last bits may depend on the batch's size."""
        first, weight = self._runs[0]
        with self._lock:  # the memory is the chain's, not the call's
            first(x_BhwC, weight, self._first.convolution.bias, self._memory[self._first.target])
            for primitive, _ in self._runs[1:]:
                primitive.run()
            return self._memory[self._last][:math.prod(self._out)].reshape(self._out).clone()


def _channels_last(batch: int, height: int, width: int, channels: int) -> Any:
    strides = (height * width * channels, 1, width * channels, channels)
    return _shape((batch, channels, height, width), _FLOAT32, strides)


def _pair(first: int, second: int) -> Any:
    return (ctypes.c_int64 * 12)(first, second)
