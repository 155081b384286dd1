# SPDX-License-Identifier: Apache-2.0
"""`softmax(q k^T / sqrt(E) + bias) v`: written out, or through Paddle's fused kernels on GPUs.

Paddle's fused kernels do not give what training needs: flash attention has no gradient of the bias, the other kernel
only that of a bias repeated for every sample.  Here the kernel computes the forward pass, nothing of (B, H, Q, T) is
kept, and the backward pass is the written-out one, with the attention weights computed again.

Shape suffixes: B batch, H heads, Q tokens that ask, T tokens, E width of a head.
"""

from __future__ import annotations

import os
import warnings

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from beitv2_core.layers.fast.linear import on_cpu

#: environment variable: 1 takes the fused kernels, 0 (the default: they were never run on a GPU) the formula
SWITCH = "BEITV2_FUSED_ATTENTION"
#: largest difference of a kernel from the formula, as a share of the largest output
TOLERANCES = {paddle.float32: 1e-4, paddle.float16: 1e-2, paddle.bfloat16: 5e-2}
_ALIGNMENT = 8  # elements a row of the mask must be a multiple of

_agrees: dict[tuple, bool] = {}  # what was seen the first time a kernel met such tensors


def attention_weights(q: paddle.Tensor, k: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
    """Softmax over the keys (B, H, Q, T) of queries (B, H, Q, E), not yet scaled, and keys (B, H, T, E).

    bias: (1 or B, H, Q, T), added to the scores.
    """
    scores = paddle.matmul(q * q.shape[-1] ** -0.5, k, transpose_y=True)
    if bias is not None and on_cpu(scores):
        bias = bias.expand(scores.shape)  # a broadcasting sum is ten times as slow there
    return F.softmax(scores if bias is None else scores + bias, axis=-1)


def fused_attention(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor,
                    bias: paddle.Tensor | None) -> paddle.Tensor | None:
    """`attention_weights(q, k, bias) @ v` (B, H, Q, E) through Paddle's fused kernels, gradients of all four included.

    None where they are not asked for (`BEITV2_FUSED_ATTENTION`), in a static graph, before Paddle 3, or where a kernel
    gave another answer than the formula, which is tried once for every kind of tensor and then warned about.
    """
    asked = os.environ.get(SWITCH, "0") == "1" and paddle.in_dynamic_mode() and q.dtype in TOLERANCES
    if not asked or paddle.__version__.startswith("2."):  # Paddle 2 has flash attention only, and falls back on nothing
        return None
    kind = (str(q.place), q.dtype, tuple(q.shape[1:]), k.shape[2], bias is None)
    if kind not in _agrees:
        _agrees[kind] = _measured_agreement(q, k, v, bias)
    return _FusedAttention.apply(q, k, v, bias) if _agrees[kind] else None


@paddle.no_grad()
def _measured_agreement(q, k, v, bias):
    try:
        fused = _kernel(q, k, v, bias).astype("float32")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        said = str(error).strip() or type(error).__name__
        _warn(q, f"fails ({said.splitlines()[-1]})")
        return False
    plain = paddle.matmul(attention_weights(q, k, bias).astype(v.dtype), v).astype("float32")
    difference = float((fused - plain).abs().max()) / max(float(plain.abs().max()), 1e-12)
    if difference <= TOLERANCES[q.dtype]:  # False for nan too
        return True
    _warn(q, f"differs from the formula by {difference:.1g} of the largest value (at most {TOLERANCES[q.dtype]:g} was "
             "expected)")
    return False


def _warn(q, what):
    warnings.warn(f"{SWITCH}=1: Paddle's kernel {what} for queries {tuple(q.shape)} of {q.dtype}; the written-out "
                  "attention is used for them.", stacklevel=2)


def _kernel(q, k, v, bias):
    """The fused forward pass; keys are filled up to what the kernels' masks need, with a bias that hides them."""
    if bias is not None:
        filled = -k.shape[2] % _ALIGNMENT
        bias = bias.astype(q.dtype).expand([q.shape[0], q.shape[1], q.shape[2], k.shape[2]])
        if filled:
            k, v = (F.pad(x, [0, 0, 0, filled]) for x in (k, v))
            bias = F.pad(bias, [0, filled, 0, 0], value=paddle.finfo(q.dtype).min)
    q, k, v = (x.transpose([0, 2, 1, 3]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose([0, 2, 1, 3])


class _FusedAttention(PyLayer):
    @staticmethod
    def forward(ctx, q, k, v, bias):
        out = _kernel(q, k, v, bias)
        ctx.save_for_backward(q, k, v, out)
        ctx.bias = bias
        ctx.wanted = [not tensor.stop_gradient for tensor in (q, k, v, bias) if tensor is not None]
        return out

    @staticmethod
    def backward(ctx, dout):
        q, k, v, out = ctx.saved_tensor()
        bias, scale = ctx.bias, q.shape[-1] ** -0.5
        weights = attention_weights(q.astype("float32"), k.astype("float32"), bias)
        dv = paddle.matmul(weights.astype(dout.dtype), dout, transpose_x=True)
        dscores = paddle.matmul(dout, v, transpose_y=True).astype("float32")
        sums = (dout.astype("float32") * out.astype("float32")).sum(-1, keepdim=True)
        dscores = (dscores - sums) * weights
        gradients = [paddle.matmul(dscores.astype(k.dtype), k) * scale,
                     paddle.matmul(dscores.astype(q.dtype), q, transpose_x=True) * scale, dv]
        if bias is not None:
            dbias = dscores.sum(0, keepdim=True) if bias.shape[0] == 1 else dscores
            gradients.append(dbias.astype(bias.dtype))
        return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, ctx.wanted))
