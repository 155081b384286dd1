# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation whose gradient avoids Paddle's slow CPU kernel.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.fast.linear import sum_over_rows, uses_cpu_gradients


def norm_gradient(x_RD: paddle.Tensor, dy_RD: paddle.Tensor, weight_D: paddle.Tensor,
                  eps: float) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Gradients of layer normalisation by x (R, D), weight (D,) and bias (D,)."""
    shape, width = x_RD.shape, x_RD.shape[-1]
    average_D1 = paddle.full([width, 1], 1.0 / width, dtype=x_RD.dtype)
    # Row means are products, expanded by hand: Paddle's CPU reductions and broadcasts are ten times slower.
    xhat_RD = x_RD - paddle.matmul(x_RD, average_D1).expand(shape)
    rstd_RD = paddle.rsqrt(paddle.matmul(paddle.square(xhat_RD), average_D1) + eps).expand(shape)
    xhat_RD.multiply_(rstd_RD)
    along_RD = dy_RD * xhat_RD
    dweight_D, dbias_D = sum_over_rows(along_RD), sum_over_rows(dy_RD)
    weight_D1 = weight_D.reshape([width, 1]) / width
    xhat_RD.multiply_(paddle.matmul(along_RD, weight_D1).expand(shape))
    dx_RD = dy_RD * weight_D.expand(shape)
    dx_RD.subtract_(paddle.matmul(dy_RD, weight_D1).expand(shape)).subtract_(xhat_RD).multiply_(rstd_RD)
    return dx_RD, dweight_D, dbias_D


class _LayerNormOnCpu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight_D: paddle.Tensor, bias_D: paddle.Tensor,
                eps: float) -> paddle.Tensor:
        ctx.save_for_backward(x, weight_D)
        ctx.eps = eps
        return F.layer_norm(x, [x.shape[-1]], weight_D, bias_D, eps)

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        x, weight_D = ctx.saved_tensor()
        width = x.shape[-1]
        dx_RD, dweight_D, dbias_D = norm_gradient(x.reshape([-1, width]), dy.reshape([-1, width]), weight_D, ctx.eps)
        return dx_RD.reshape(x.shape), dweight_D, dbias_D


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis; on the CPU its gradient is written as matrix products."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        if uses_cpu_gradients(input) and not (input.stop_gradient or self.weight.stop_gradient):
            return _LayerNormOnCpu.apply(input, self.weight, self.bias, self._epsilon)
        return nn.LayerNorm.forward(self, input)  # not super(): Paddle 2.6 cannot export it
