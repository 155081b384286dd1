"""Layer normalisation whose gradient avoids Paddle's slow CPU kernel.

Shape suffixes: R rows, D width.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.linear import linear, product_and_bias, sum_over_rows, uses_cpu_gradients


def _gradient(x, dy, weight, eps):
    """Gradients by x, weight and bias."""
    x_RD, dy_RD = x.reshape([-1, x.shape[-1]]), dy.reshape([-1, x.shape[-1]])
    centred_RD = x_RD - _row_mean(x_RD).expand(x_RD.shape)
    rstd_RD = paddle.rsqrt(_row_mean(paddle.square(centred_RD)) + eps).expand(x_RD.shape)
    xhat_RD = centred_RD * rstd_RD
    g_RD = dy_RD * weight.expand(x_RD.shape)
    along_RD = xhat_RD * _row_mean(g_RD * xhat_RD).expand(x_RD.shape)
    dx_RD = (g_RD - _row_mean(g_RD).expand(x_RD.shape) - along_RD) * rstd_RD
    return dx_RD.reshape(x.shape), sum_over_rows(dy_RD * xhat_RD), sum_over_rows(dy_RD)


def _row_mean(values_RD):
    # A product, which the caller expands: Paddle's CPU reductions and broadcasting operations are ten times slower.
    average = paddle.full([values_RD.shape[-1], 1], 1.0 / values_RD.shape[-1], dtype=values_RD.dtype)
    return paddle.matmul(values_RD, average)


class _LayerNormOnCpu(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.layer_norm(x, [x.shape[-1]], weight, bias, eps)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensor()
        return _gradient(x, dy, weight, ctx.eps)


class _NormLinearOnCpu(PyLayer):
    """`linear(layer_norm(x))` that keeps only x, which the residual branch holds anyway."""

    @staticmethod
    def forward(ctx, x, gain, shift, eps, weight, bias):
        ctx.save_for_backward(x, gain, shift, weight)
        ctx.eps, ctx.biased = eps, bias is not None
        normed = F.layer_norm(x, [x.shape[-1]], gain, shift, eps)
        return product_and_bias(normed, weight, bias) if ctx.biased else paddle.matmul(normed, weight)

    @staticmethod
    def backward(ctx, dy):
        x, gain, shift, weight = ctx.saved_tensor()
        dy_RE = dy.reshape([-1, weight.shape[1]])
        normed_RD = F.layer_norm(x, [x.shape[-1]], gain, shift, ctx.eps).reshape([-1, x.shape[-1]])
        dweight = paddle.matmul(normed_RD, dy_RE, transpose_x=True)
        del normed_RD
        dx, dgain, dshift = _gradient(x, paddle.matmul(dy_RE, weight, transpose_y=True), gain, ctx.eps)
        return (dx, dgain, dshift, dweight, sum_over_rows(dy_RE)) if ctx.biased else (dx, dgain, dshift, dweight)


def norm_linear(x: paddle.Tensor, norm: LayerNorm | None, weight: paddle.Tensor,
                bias: paddle.Tensor | None) -> paddle.Tensor:
    """`linear(norm(x), weight, bias)`; norm None leaves x as it is.  On the CPU the normalised x is not kept."""
    if norm is None:
        return linear(x, weight, bias)
    learnt = (x, norm.weight, norm.bias, weight, *(() if bias is None else (bias,)))
    if uses_cpu_gradients(x) and not any(tensor.stop_gradient for tensor in learnt):
        return _NormLinearOnCpu.apply(x, norm.weight, norm.bias, norm._epsilon, weight, bias)
    return linear(norm(x), weight, bias)


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis; on the CPU its gradient is written as matrix products."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        if uses_cpu_gradients(input) and not (input.stop_gradient or self.weight.stop_gradient):
            return _LayerNormOnCpu.apply(input, self.weight, self.bias, self._epsilon)
        return nn.LayerNorm.forward(self, input)  # not super(): Paddle 2.6 cannot export it
