# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation in several threads on the CPU.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.linear import uses_cpu_gradients


class _LayerNormOnCpu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight_D: paddle.Tensor, bias_D: paddle.Tensor,
                eps: float) -> paddle.Tensor:
        normed = onednn.layer_norm(x, weight_D, bias_D, eps)
        ctx.save_for_backward(x, weight_D, bias_D, normed.mean_R, normed.variance_R)
        ctx.eps = eps
        return normed.y_RD.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        x, weight_D, bias_D, mean_R, variance_R = ctx.saved_tensor()
        dx_RD, dweight_D, dbias_D = onednn.layer_norm_gradient(x, dy.reshape([-1, x.shape[-1]]), mean_R, variance_R,
                                                               weight_D, bias_D, ctx.eps)
        return dx_RD.reshape(x.shape), dweight_D, dbias_D


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis; in training on the CPU by oneDNN, in several threads."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        if (uses_cpu_gradients(input) and onednn.usable() and input.dtype == paddle.float32
                and not (input.stop_gradient or self.weight.stop_gradient)):
            return _LayerNormOnCpu.apply(input, self.weight, self.bias, self._epsilon)
        return nn.LayerNorm.forward(self, input)  # not super(): Paddle 2.6 cannot export it
