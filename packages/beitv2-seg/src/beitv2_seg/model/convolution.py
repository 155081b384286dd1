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
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.layout import copy_part_, permute
from beitv2_core.layers.fast.linear import on_cpu
from beitv2_core.layers.fast.products import operand, product, rounding


class Conv3x3(nn.Conv2D):
    """`paddle.nn.Conv2D` with a 3 x 3 kernel, padding 1 and no bias: (B, C, H, W) -> (B, O, H, W).

    The same sums in another order on the CPU, Paddle's own convolution elsewhere.
    """

    def __init__(self, channels: int, out: int, weight_attr: Any = None):
        super().__init__(channels, out, 3, padding=1, weight_attr=weight_attr, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if on_cpu(x) and x.dtype == paddle.float32 and onednn.usable():
            return _Conv3x3OnCpu.apply(x, self.weight)
        return nn.Conv2D.forward(self, x)  # not super(): Paddle 2.6 cannot export it


class _Conv3x3OnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x, weight):
        batch, channels, height, width = x.shape
        ctx.shape, ctx.wanted, ctx.rounded = x.shape, not x.stop_gradient, rounding()
        whole, begin = list(x.shape), (0, 0, 0, 0)
        padded_BCHW = copy_part_(paddle.zeros([batch, channels, height + 2, width + 2]), x, whole, (0, 0, 1, 1), begin)
        map_BCP = operand(padded_BCHW.flatten(2), ctx.rounded)
        ctx.save_for_backward(map_BCP, weight)
        out_BOHW = paddle.empty([batch, weight.shape[0], height, width])
        for (row, column), weight_OC in zip(_positions(), paddle.unbind(_by_position(weight), axis=0)):
            part_BOHW = product(weight_OC, map_BCP, ctx.rounded).reshape([batch, -1, height + 2, width + 2])
            copy_part_(out_BOHW, part_BOHW, out_BOHW.shape, begin, (0, 0, row, column), add=(row, column) != (0, 0))
        return out_BOHW

    @staticmethod
    def backward(ctx, dy):
        map_BCP, weight = ctx.saved_tensor()
        batch, channels, height, width = ctx.shape
        out, begin = weight.shape[0], (0, 0, 0, 0)
        # One above the other: nine times as high as the result is still far from nine times as high as the input.
        shifted_BNHW = paddle.zeros([batch, 9 * out, height + 2, width + 2])  # N = 9 * O
        for place, (row, column) in enumerate(_positions()):
            copy_part_(shifted_BNHW, dy, dy.shape, (0, place * out, row, column), begin)
        shifted_BNP = operand(shifted_BNHW.flatten(2), ctx.rounded)
        del shifted_BNHW
        dx = dweight = None
        if ctx.wanted:
            weight_NC = _by_position(weight).reshape([9 * out, channels])
            padded_BCHW = product(weight_NC, shifted_BNP, ctx.rounded, transpose_x=True).reshape(
                [batch, channels, height + 2, width + 2])
            dx = copy_part_(paddle.empty(ctx.shape), padded_BCHW, ctx.shape, begin, (0, 0, 1, 1))
        if not weight.stop_gradient:
            dweight_NC = None
            for sample in range(batch):
                of_sample_NC = product(_sample(shifted_BNP, sample), _sample(map_BCP, sample), ctx.rounded,
                                       transpose_y=True)
                dweight_NC = of_sample_NC if dweight_NC is None else dweight_NC.add_(of_sample_NC)
            dweight = permute(dweight_NC.reshape([3, 3, out, channels]), (2, 3, 0, 1))
        return dx, dweight


def _positions() -> list[tuple[int, int]]:
    return [(row, column) for row in range(3) for column in range(3)]


def _sample(maps: paddle.Tensor, number: int) -> paddle.Tensor:
    """Maps of one image, in their own memory: an index would copy them, and Paddle has no public way that does not."""
    return maps._slice(number, number + 1).squeeze(0)


def _by_position(weight: paddle.Tensor) -> paddle.Tensor:
    """The kernel (O, C, 3, 3) as nine matrices (9, O, C)."""
    return permute(weight, (2, 3, 0, 1)).reshape([9, *weight.shape[:2]])
