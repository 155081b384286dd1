# SPDX-License-Identifier: Apache-2.0
"""Linear maps whose gradients avoid Paddle's slow CPU reductions.

Shape suffixes: `layers/__init__.py`; D inputs of a linear map.
"""

from __future__ import annotations

import os
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.fast.products import operand, product, product_and_bias, rounding, sum_over_rows

#: environment variable: 1 computes on the CPU as on a GPU, by Paddle's own operations; values differ by rounding only
SWITCH = "BEITV2_PLAIN_LAYERS"


def on_cpu(x: paddle.Tensor) -> bool:
    """True where the CPU formulations apply: eager mode, on the CPU, not switched off by `BEITV2_PLAIN_LAYERS=1`."""
    return bool(paddle.in_dynamic_mode() and x.place.is_cpu_place()) and os.environ.get(SWITCH, "0") != "1"


def as_written(layer: Any, kind: Any) -> bool:
    """True for a layer of exactly that class, without hooks and without a `forward` of its own.

    Only then may its weights be used in place of a call to it.
    """
    if type(layer) is not kind or layer._forward_pre_hooks or layer._forward_post_hooks:
        return False
    # An export leaves a translated copy of the class's own forward in the layer.
    return "forward" not in layer.__dict__ or layer._original_funcs.get("forward") is kind.forward


def uses_cpu_gradients(x: paddle.Tensor) -> bool:
    """True where the hand-written CPU gradients apply: eager mode, on the CPU, recording a gradient."""
    return on_cpu(x) and paddle.is_grad_enabled()


def plus(x: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """`x + bias`, where `bias` broadcasts to the shape of x."""
    # Expanded first: on the CPU a broadcasting sum takes ten times as long as a plain one (0.67 ms, 0.06 ms).
    return x + (bias.expand(x.shape) if on_cpu(x) else bias)


class _LinearOnCpu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight_DO: paddle.Tensor, bias_O: paddle.Tensor) -> paddle.Tensor:
        ctx.rounded = rounding()
        ctx.save_for_backward(operand(x, ctx.rounded), weight_DO)
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight_DO, bias_O)]
        return product_and_bias(x, weight_DO, bias_O, ctx.rounded)

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        x, weight_DO = ctx.saved_tensor()
        dy_RO = dy.reshape([-1, weight_DO.shape[1]])
        of_x, of_weight, of_bias = ctx.wanted
        dbias_O = sum_over_rows(dy_RO) if of_bias else None
        dy_RO, dx, dweight_DO = operand(dy_RO, ctx.rounded), None, None
        if of_x:
            dx = product(dy_RO, weight_DO, ctx.rounded, transpose_y=True).reshape(x.shape)
        if of_weight:
            dweight_DO = product(x.reshape([-1, weight_DO.shape[0]]), dy_RO, ctx.rounded, transpose_x=True)
        return dx, dweight_DO, dbias_O


def linear(x: paddle.Tensor, weight_DO: paddle.Tensor, bias_O: paddle.Tensor | None) -> paddle.Tensor:
    """`x @ weight + bias` of x (..., D), exactly `F.linear`; on the CPU its bias gradient is a product.

    Paddle sums the bias gradient in one thread (320 of 2215 ms in three ViT-B blocks); the values are the same sums.
    """
    if bias_O is None or not on_cpu(x) or x.dtype != paddle.float32:
        return F.linear(x, weight_DO, bias_O)
    return _LinearOnCpu.apply(x, weight_DO, bias_O)


class Linear(nn.Linear):
    """`paddle.nn.Linear` (weight (in, out)) computed by `linear` above."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        return linear(input, self.weight, self.bias)
