"""Layer normalisation whose gradient avoids Paddle's slow CPU kernel.

Shape suffixes: R rows, D width.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.linear import sum_over_rows, uses_cpu_gradients


class _LayerNormOnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.layer_norm(x, [x.shape[-1]], weight, bias, eps)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensor()
        width = x.shape[-1]
        x_RD, dy_RD = x.reshape([-1, width]), dy.reshape([-1, width])
        average = paddle.full([width, 1], 1.0 / width, dtype=x.dtype)

        def row_mean(values_RD):
            # A product, and expanded: Paddle's CPU reductions and broadcasting operations are ten times slower.
            return paddle.matmul(values_RD, average).expand(values_RD.shape)

        centred_RD = x_RD - row_mean(x_RD)
        variance_R1 = paddle.matmul(paddle.square(centred_RD), average)
        rstd_RD = paddle.rsqrt(variance_R1 + ctx.eps).expand(x_RD.shape)
        xhat_RD = centred_RD * rstd_RD
        g_RD = dy_RD * weight.expand(x_RD.shape)
        dx_RD = (g_RD - row_mean(g_RD) - xhat_RD * row_mean(g_RD * xhat_RD)) * rstd_RD
        return dx_RD.reshape(x.shape), sum_over_rows(dy_RD * xhat_RD), sum_over_rows(dy_RD)


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis; on the CPU its gradient is written as matrix products."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        if uses_cpu_gradients(input) and not (input.stop_gradient or self.weight.stop_gradient):
            return _LayerNormOnCpu.apply(input, self.weight, self.bias, self._epsilon)
        return super().forward(input)
