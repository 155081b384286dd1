"""The feed-forward half of a block."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.layer_norm import LayerNorm, norm_linear
from beitv2_core.layers.linear import Linear, product_and_bias, sum_over_rows, uses_cpu_gradients


class _GeluLinearOnCpu(PyLayer):
    """`linear(gelu(h))` that keeps only h: a quarter less memory for a block's activations, at no cost in time."""

    @staticmethod
    def forward(ctx, h, weight, bias):
        ctx.save_for_backward(h, weight)
        return product_and_bias(F.gelu(h), weight, bias)

    @staticmethod
    def backward(ctx, dy):
        h, weight = ctx.saved_tensor()
        dy_RE, h_RD = dy.reshape([-1, weight.shape[1]]), h.reshape([-1, weight.shape[0]])
        # gelu(h) = h * cdf(h), its derivative cdf(h) + h * density(h); in place: these arrays are the largest
        cdf_RD = paddle.erf(paddle.scale(h_RD, math.sqrt(0.5))).scale_(0.5, bias=0.5)
        dweight = paddle.matmul(h_RD * cdf_RD, dy_RE, transpose_x=True)
        slope_RD = paddle.square(h_RD).scale_(-0.5).exp_().scale_(1 / math.sqrt(2 * math.pi))
        slope_RD = slope_RD.multiply_(h_RD).add_(cdf_RD)
        dh_RD = paddle.matmul(dy_RE, weight, transpose_y=True).multiply_(slope_RD)
        return dh_RD.reshape(h.shape), dweight, sum_over_rows(dy_RE)


class Mlp(nn.Layer):
    """Linear, GELU (erf), Linear, dropout; no dropout after the activation.

    x: (B, T, width) -> the same shape; `norm` is applied to x first.  Source: official modeling_finetune.py, Mlp.
    """

    def __init__(self, width: int, hidden: int, drop_rate: float = 0.0):
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, width)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: paddle.Tensor, norm: LayerNorm | None = None) -> paddle.Tensor:
        hidden, fc2 = norm_linear(x, norm, self.fc1.weight, self.fc1.bias), self.fc2
        if uses_cpu_gradients(hidden) and not (hidden.stop_gradient or fc2.weight.stop_gradient):
            return self.drop(_GeluLinearOnCpu.apply(hidden, fc2.weight, fc2.bias))
        return self.drop(fc2(self.act(hidden)))
