# SPDX-License-Identifier: Apache-2.0
"""3 x 3 convolutions as a few large matrix products.

Paddle's CPU convolution copies every window of the map into a matrix (1.8 GB for the head's 3072 channels at 128 x 128)
and adds the gradients back from it.  Here the nine positions of the kernel are nine products of the whole map, whose
results are added one row or column apart.

Shape suffixes: B batch, C channels in, O channels out, H x W map, P = (H + 2) * (W + 2) pixels of the padded map.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.fast.linear import on_cpu
from beitv2_core.layers.fast.products import operand, product, rounding


class Conv3x3(nn.Conv2D):
    """`paddle.nn.Conv2D` with a 3 x 3 kernel, padding 1 and no bias: (B, C, H, W) -> (B, O, H, W).

    The same sums in another order on the CPU, Paddle's own convolution elsewhere.
    """

    def __init__(self, channels: int, out: int, weight_attr: Any = None):
        super().__init__(channels, out, 3, padding=1, weight_attr=weight_attr, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if on_cpu(x):
            return _Conv3x3OnCpu.apply(x, self.weight)
        return nn.Conv2D.forward(self, x)  # not super(): Paddle 2.6 cannot export it


class _Conv3x3OnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x, weight):
        batch, _, height, width = x.shape
        ctx.shape, ctx.wanted, ctx.rounded = x.shape, not x.stop_gradient, rounding()
        map_BCP = operand(_padded(x, (1, 1, 1, 1)), ctx.rounded)
        ctx.save_for_backward(map_BCP, weight)
        # A window belongs to the pixel of its upper left corner; pixels that begin no window are cut away at the end.
        count = map_BCP.shape[2] - _offset(2, 2, width)
        total_BOP = None
        for (row, column), weight_OC in zip(_positions(), paddle.unbind(_by_position(weight), axis=0)):
            begin = _offset(row, column, width)
            part_BOP = paddle.slice(product(weight_OC, map_BCP, ctx.rounded), [2], [begin], [begin + count])
            total_BOP = part_BOP if total_BOP is None else total_BOP.add_(part_BOP)
        rest_BOP = paddle.zeros([batch, weight.shape[0], map_BCP.shape[2] - count], dtype=x.dtype)
        out = paddle.concat([total_BOP, rest_BOP], axis=2).reshape([batch, -1, height + 2, width + 2])
        return out[:, :, :height, :width]

    @staticmethod
    def backward(ctx, dy):
        map_BCP, weight = ctx.saved_tensor()
        batch, channels, height, width = ctx.shape
        out = weight.shape[0]
        dy_BOP = _padded(dy, (0, 2, 0, 2))
        pixels = dy_BOP.shape[2]
        shifted = []
        for row, column in _positions():
            begin = _offset(row, column, width)
            head = paddle.zeros([batch, out, begin], dtype=dy.dtype)
            shifted.append(paddle.concat([head, dy_BOP[:, :, :pixels - begin]], axis=2) if begin else dy_BOP)
        # One above the other: nine times as high as the result is still far from nine times as high as the input.
        shifted_BNP = operand(paddle.concat(shifted, axis=1), ctx.rounded)  # N = 9 * O
        del shifted, dy_BOP
        dx = dweight = None
        if ctx.wanted:
            weight_NC = _by_position(weight).reshape([9 * out, channels])
            dx = product(weight_NC, shifted_BNP, ctx.rounded, transpose_x=True)
            dx = dx.reshape([batch, channels, height + 2, width + 2])[:, :, 1:-1, 1:-1]
        if not weight.stop_gradient:
            dweight_NC = product(shifted_BNP[0], map_BCP[0], ctx.rounded, transpose_y=True)
            for sample in range(1, batch):
                dweight_NC.add_(product(shifted_BNP[sample], map_BCP[sample], ctx.rounded, transpose_y=True))
            dweight = dweight_NC.reshape([3, 3, out, channels]).transpose([2, 3, 0, 1])
        return dx, dweight


def _positions() -> list[tuple[int, int]]:
    return [(row, column) for row in range(3) for column in range(3)]


def _offset(row: int, column: int, width: int) -> int:
    """How many pixels of the padded map lie between a window's upper left corner and one of its nine positions."""
    return row * (width + 2) + column


def _by_position(weight: paddle.Tensor) -> paddle.Tensor:
    """The kernel (O, C, 3, 3) as nine matrices (9, O, C)."""
    return weight.transpose([2, 3, 0, 1]).reshape([9, *weight.shape[:2]])


def _padded(maps: paddle.Tensor, padding: tuple[int, int, int, int]) -> paddle.Tensor:
    """Maps (B, C, H, W), padded with zeros (left, right, top, bottom), with their pixels in one axis (B, C, P)."""
    return F.pad(maps, list(padding)).flatten(2)
