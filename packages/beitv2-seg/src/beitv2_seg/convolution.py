"""3 x 3 convolutions as a few large matrix products.

Paddle's CPU convolution copies every window of the map into a matrix (1.8 GB for the head's 3072 channels at 128 x 128)
and adds the gradients back from it.  Here the nine positions of the kernel are nine products of the whole map, whose
results are added one row or column apart.

Shape suffixes: B batch, C channels in, O channels out, H x W map, R rows = B * (H + 2) * (W + 2) of the padded map.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.linear import on_cpu


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
        ctx.save_for_backward(x, weight)
        batch, _, height, width = x.shape
        map_RC = _padded_rows(x, (1, 1, 1, 1))
        # A window belongs to the row of its upper left corner; rows that begin no window are cut away at the end.
        count = map_RC.shape[0] - _offset(2, 2, width)
        total_RO = None
        for (row, column), weight_CO in zip(_positions(), _by_position(weight)):
            begin = _offset(row, column, width)
            part_RO = paddle.slice(paddle.matmul(map_RC, weight_CO), [0], [begin], [begin + count])
            total_RO = part_RO if total_RO is None else total_RO.add_(part_RO)
        rest_RO = paddle.zeros([map_RC.shape[0] - count, weight.shape[0]], dtype=x.dtype)
        out = paddle.concat([total_RO, rest_RO]).reshape([batch, height + 2, width + 2, -1])
        return out[:, :height, :width].transpose([0, 3, 1, 2])

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensor()
        batch, channels, height, width = x.shape
        out = weight.shape[0]
        dy_RO = _padded_rows(dy, (0, 2, 0, 2))
        rows = dy_RO.shape[0]
        shifted = []
        for row, column in _positions():
            begin = _offset(row, column, width)
            head = paddle.zeros([begin, out], dtype=dy.dtype)
            shifted.append(paddle.concat([head, dy_RO[:rows - begin]]) if begin else dy_RO)
        # Side by side: nine times as wide as the result is still far from nine times as wide as the input.
        shifted_R9O = paddle.concat(shifted, axis=1)
        del shifted, dy_RO
        dx = dweight = None
        if not x.stop_gradient:
            weight_9OC = paddle.concat([part.t() for part in _by_position(weight)])
            dx = paddle.matmul(shifted_R9O, weight_9OC).reshape([batch, height + 2, width + 2, channels])
            dx = dx[:, 1:-1, 1:-1].transpose([0, 3, 1, 2])
        if not weight.stop_gradient:
            dweight_C9O = paddle.matmul(_padded_rows(x, (1, 1, 1, 1)), shifted_R9O, transpose_x=True)
            dweight = dweight_C9O.reshape([channels, 3, 3, out]).transpose([3, 0, 1, 2])
        return dx, dweight


def _positions() -> list[tuple[int, int]]:
    return [(row, column) for row in range(3) for column in range(3)]


def _offset(row: int, column: int, width: int) -> int:
    """How many rows of the padded map lie between a window's upper left corner and one of its nine positions."""
    return row * (width + 2) + column


def _by_position(weight: paddle.Tensor) -> list[paddle.Tensor]:
    """The kernel (O, C, 3, 3) as nine matrices (C, O)."""
    return paddle.unbind(weight.transpose([2, 3, 1, 0]).reshape([9, weight.shape[1], weight.shape[0]]), axis=0)


def _padded_rows(maps: paddle.Tensor, padding: tuple[int, int, int, int]) -> paddle.Tensor:
    """Maps (B, C, H, W), padded with zeros (left, right, top, bottom), as rows (R, C) of pixels."""
    padded = F.pad(maps.transpose([0, 2, 3, 1]), list(padding), data_format="NHWC")
    return padded.reshape([-1, padded.shape[-1]])
