# SPDX-License-Identifier: Apache-2.0
"""Attention through Paddle's fused kernels on GPUs; the formula they stand for is in `layers/attention.py`.

Paddle's fused kernels do not give what training needs: flash attention has no gradient of the bias, the other kernel
only that of a bias repeated for every sample.  Here the kernel computes the forward pass, nothing of (B, H, Q, T) is
kept, and the backward pass is that of the formula, with the attention weights computed again.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

#: environment variable: 1 takes the fused kernels, 0 (the default: they were never run on a GPU) the formula
SWITCH = "BEITV2_FUSED_ATTENTION"
#: largest difference of a kernel from the formula, as a share of the largest output
TOLERANCES = {paddle.float32: 1e-4, paddle.float16: 1e-2, paddle.bfloat16: 5e-2}
_ALIGNMENT = 8  # elements a row of the mask must be a multiple of

#: softmax(q k^T / sqrt(E) + bias), from q, k and bias
Formula = Callable[[paddle.Tensor, paddle.Tensor, Optional[paddle.Tensor]], paddle.Tensor]
_kernel_is_accurate: dict[tuple[Any, ...], bool] = {}  # result of the one check for every device, dtype and shape


def fused_attention(q_BHQE: paddle.Tensor, k_BHTE: paddle.Tensor, v_BHTE: paddle.Tensor, bias: paddle.Tensor | None, *,
                    formula: Formula) -> paddle.Tensor | None:
    """`formula(q, k, bias) @ v` (B, H, Q, E) through Paddle's fused kernels, gradients of all four included.

    bias: (1 or B, H, Q, T).  None where the kernels are not asked for (`BEITV2_FUSED_ATTENTION`), in a static graph,
    before Paddle 3, or where a kernel gave another answer than the formula: that is checked once for every device,
    dtype and shape, and warned about.
    """
    asked = os.environ.get(SWITCH, "0") == "1" and paddle.in_dynamic_mode() and q_BHQE.dtype in TOLERANCES
    if not asked or paddle.__version__.startswith("2."):  # Paddle 2 has flash attention only, and falls back on nothing
        return None
    case = (str(q_BHQE.place), q_BHQE.dtype, tuple(q_BHQE.shape[1:]), k_BHTE.shape[2], bias is None)
    if case not in _kernel_is_accurate:
        _kernel_is_accurate[case] = _check_kernel(q_BHQE, k_BHTE, v_BHTE, bias, formula)
    return _FusedAttention.apply(q_BHQE, k_BHTE, v_BHTE, bias, formula) if _kernel_is_accurate[case] else None


@paddle.no_grad()
def _check_kernel(q_BHQE: paddle.Tensor, k_BHTE: paddle.Tensor, v_BHTE: paddle.Tensor, bias: paddle.Tensor | None,
                  formula: Formula) -> bool:
    try:
        fused_BHQE = _kernel(q_BHQE, k_BHTE, v_BHTE, bias).astype("float32")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        said = str(error).strip() or type(error).__name__
        _warn(q_BHQE, f"fails ({said.splitlines()[-1]})")
        return False
    plain_BHQE = paddle.matmul(formula(q_BHQE, k_BHTE, bias).astype(v_BHTE.dtype), v_BHTE).astype("float32")
    difference = float((fused_BHQE - plain_BHQE).abs().max()) / max(float(plain_BHQE.abs().max()), 1e-12)
    if difference <= TOLERANCES[q_BHQE.dtype]:  # False for nan too
        return True
    _warn(q_BHQE, f"differs from the formula by {difference:.1g} of the largest value (at most "
                  f"{TOLERANCES[q_BHQE.dtype]:g} was expected)")
    return False


def _warn(q_BHQE: paddle.Tensor, what: str) -> None:
    warnings.warn(f"{SWITCH}=1: Paddle's kernel {what} for queries {tuple(q_BHQE.shape)} of {q_BHQE.dtype}; the "
                  "written-out attention is used for them.", stacklevel=2)


def _kernel(q_BHQE: paddle.Tensor, k_BHTE: paddle.Tensor, v_BHTE: paddle.Tensor,
            bias: paddle.Tensor | None) -> paddle.Tensor:
    """The fused forward pass; keys are filled up to what the kernels' masks need, with a bias that hides them."""
    if bias is not None:
        batch, heads, queries, _ = q_BHQE.shape
        filled = -k_BHTE.shape[2] % _ALIGNMENT
        bias = bias.astype(q_BHQE.dtype).expand([batch, heads, queries, k_BHTE.shape[2]])
        if filled:
            k_BHTE, v_BHTE = (F.pad(x, [0, 0, 0, filled]) for x in (k_BHTE, v_BHTE))
            bias = F.pad(bias, [0, filled, 0, 0], value=paddle.finfo(q_BHQE.dtype).min)
    q_BQHE, k_BTHE, v_BTHE = (x.transpose([0, 2, 1, 3]) for x in (q_BHQE, k_BHTE, v_BHTE))
    return F.scaled_dot_product_attention(q_BQHE, k_BTHE, v_BTHE, attn_mask=bias).transpose([0, 2, 1, 3])


class _FusedAttention(PyLayer):
    @staticmethod
    def forward(ctx: Any, q_BHQE: paddle.Tensor, k_BHTE: paddle.Tensor, v_BHTE: paddle.Tensor,
                bias: paddle.Tensor | None, formula: Formula) -> paddle.Tensor:
        out_BHQE = _kernel(q_BHQE, k_BHTE, v_BHTE, bias)
        ctx.save_for_backward(q_BHQE, k_BHTE, v_BHTE, out_BHQE)
        ctx.bias, ctx.formula = bias, formula
        ctx.wanted = [not tensor.stop_gradient for tensor in (q_BHQE, k_BHTE, v_BHTE, bias) if tensor is not None]
        return out_BHQE

    @staticmethod
    def backward(ctx: Any, dout_BHQE: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        q_BHQE, k_BHTE, v_BHTE, out_BHQE = ctx.saved_tensor()
        bias, scale = ctx.bias, q_BHQE.shape[-1] ** -0.5
        weights_BHQT = ctx.formula(q_BHQE.astype("float32"), k_BHTE.astype("float32"), bias)
        dv_BHTE = paddle.matmul(weights_BHQT.astype(dout_BHQE.dtype), dout_BHQE, transpose_x=True)
        dscores_BHQT = paddle.matmul(dout_BHQE, v_BHTE, transpose_y=True).astype("float32")
        sums_BHQ1 = (dout_BHQE.astype("float32") * out_BHQE.astype("float32")).sum(-1, keepdim=True)
        dscores_BHQT = (dscores_BHQT - sums_BHQ1) * weights_BHQT
        dq_BHQE = paddle.matmul(dscores_BHQT.astype(k_BHTE.dtype), k_BHTE) * scale
        dk_BHTE = paddle.matmul(dscores_BHQT.astype(q_BHQE.dtype), q_BHQE, transpose_x=True) * scale
        gradients = [dq_BHQE, dk_BHTE, dv_BHTE]
        if bias is not None:
            dbias = dscores_BHQT.sum(0, keepdim=True) if bias.shape[0] == 1 else dscores_BHQT
            gradients.append(dbias.astype(bias.dtype))
        return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, ctx.wanted))
