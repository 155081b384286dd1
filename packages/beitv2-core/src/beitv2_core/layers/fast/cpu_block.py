# SPDX-License-Identifier: Apache-2.0
"""The two halves of a transformer block as the CPU computes them fast: few passes over memory, few tensors kept.

Paddle's element-wise and reducing CPU kernels run in one thread or broadcast slowly, and its automatic gradient keeps
the result of every operation.  Here sums are products with ones, layer scale is folded into the weights of the linear
map before it, and a half keeps for its backward pass its input, q, k, v and what they give, the MLP's hidden features,
nothing else.  Values and gradients are those of `Block.compose`, up to the order of sums.

Shape suffixes: B batch, T tokens, Q tokens that ask (T, or the ones read later), R rows = B * T, D width, E width of a
head, H heads, F hidden width.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from beitv2_core.layers.fast.heads import bias_of_rows, flat_rows, join_heads, split_heads
from beitv2_core.layers.fast.layer_norm import norm_gradient
from beitv2_core.layers.fast.linear import product_and_bias, sum_over_rows


class AttentionWeights(NamedTuple):
    """Parameters of the first half, as the official code shapes them; None where the model has none."""

    gain: paddle.Tensor
    shift: paddle.Tensor
    qkv: paddle.Tensor
    qkv_bias: Optional[paddle.Tensor]
    rel_pos_bias: Optional[paddle.Tensor]
    proj: paddle.Tensor
    proj_bias: paddle.Tensor
    gamma: Optional[paddle.Tensor]


class MlpWeights(NamedTuple):
    """Parameters of the second half."""

    gain: paddle.Tensor
    shift: paddle.Tensor
    fc1: paddle.Tensor
    fc1_bias: paddle.Tensor
    fc2: paddle.Tensor
    fc2_bias: paddle.Tensor
    gamma: Optional[paddle.Tensor]


def attention_half(x: paddle.Tensor, weights: AttentionWeights, *, num_heads: int, scale: float, eps: float,
                   keep: paddle.Tensor | None = None, read: paddle.Tensor | None = None) -> paddle.Tensor:
    """`x + keep * gamma * proj(attention(norm(x)))`, of the tokens `read` only if given.

    x (B, T, D); keep (B, 1, 1): drop path's factor of every sample; read: int64 (B, Q), tokens of every sample.
    Returns (B, T, D) or (B, Q, D).
    """
    return _AttentionHalf.apply(x, *weights, num_heads, scale, eps, keep, read)


def mlp_half(x: paddle.Tensor, weights: MlpWeights, *, eps: float, keep: paddle.Tensor | None = None) -> paddle.Tensor:
    """`x + keep * gamma * fc2(gelu(fc1(norm(x))))`; x (B, T, D), keep (B, 1, 1)."""
    return _MlpHalf.apply(x, *weights, eps, keep)


class _AttentionHalf(PyLayer):
    @staticmethod
    def forward(ctx, x, gain, shift, qkv, qkv_bias, rel_pos_bias, proj, proj_bias, gamma,
                heads, scale, eps, keep, read):
        batch, tokens, width = x.shape
        normed_RD = F.layer_norm(x, [width], gain, shift, eps).reshape([-1, width])
        rows = None if read is None else flat_rows(read, tokens)
        if rows is None:
            projected = _plus(normed_RD, qkv, qkv_bias)
            stacks = [split_heads(projected.reshape([batch, tokens, -1]), 3, heads)]
            residual = x
        else:
            inner = qkv.shape[1] // 3
            projected = _plus(normed_RD.index_select(rows), qkv[:, :inner],
                              None if qkv_bias is None else qkv_bias[:inner])
            stacks = [split_heads(projected.reshape([batch, -1, inner]), 1, heads)]
            projected = _plus(normed_RD, qkv[:, inner:], None if qkv_bias is None else qkv_bias[inner:])
            stacks.append(split_heads(projected.reshape([batch, tokens, 2 * inner]), 2, heads))
            residual = x.reshape([-1, width]).index_select(rows).reshape([*read.shape, width])
        del normed_RD, projected
        q, k, v = _unstack(stacks, scale)
        probs = _attend(q, k, rel_pos_bias, read)
        out = paddle.matmul(probs, v).transpose([0, 2, 1, 3]).reshape([*residual.shape[:2], -1])
        ctx.save_for_backward(x, out, *stacks)
        ctx.weights = gain, shift, qkv, qkv_bias, rel_pos_bias, proj, proj_bias, gamma
        ctx.wanted = _needs(x, *ctx.weights, keep, read)
        ctx.settings = heads, scale, eps, keep, read, rows
        return _add_branch(residual, product_and_bias(out, *_scaled(proj, proj_bias, gamma)), keep)

    @staticmethod
    def backward(ctx, dy):
        x, out, *stacks = ctx.saved_tensor()
        gain, shift, qkv, qkv_bias, rel_pos_bias, proj, proj_bias, gamma = ctx.weights
        heads, scale, eps, keep, read, rows = ctx.settings
        q, k, v = _unstack(stacks, scale)
        probs = _attend(q, k, rel_pos_bias, read)
        batch, tokens, width = x.shape
        dout, dproj, dproj_bias, dgamma = _residual_gradient(dy, out, proj, proj_bias, gamma, keep)
        dout = dout.reshape(out.shape)
        # Row sums of probs * dprobs, from the output: a head's width instead of all tokens to sum over.
        ones = paddle.ones([q.shape[-1], 1], dtype=dy.dtype)
        sums = paddle.matmul((dout * out).reshape([batch, -1, heads, q.shape[-1]]), ones).transpose([0, 2, 1, 3])
        dout = dout.reshape([batch, -1, heads, q.shape[-1]]).transpose([0, 2, 1, 3])
        dv = paddle.matmul(probs, dout, transpose_x=True)
        dscores = paddle.matmul(dout, v, transpose_y=True)
        dscores.subtract_(sums.expand(dscores.shape)).multiply_(probs)
        drel = None if rel_pos_bias is None else _bias_gradient(dscores, rel_pos_bias.shape, read)
        dq = paddle.matmul(dscores, k).scale_(scale)
        dk = paddle.matmul(dscores, q, transpose_x=True)
        del dscores, dout, sums, probs
        normed_RD = F.layer_norm(x, [width], gain, shift, eps).reshape([-1, width])
        if rows is None:
            dqkv_RE = join_heads(dq, dk, dv)
            dweight = paddle.matmul(normed_RD, dqkv_RE, transpose_x=True)
            dbias = sum_over_rows(dqkv_RE)
            dnormed_RD = paddle.matmul(dqkv_RE, qkv, transpose_y=True)
        else:
            inner = qkv.shape[1] // 3
            dq_RE, dkv_RE = join_heads(dq), join_heads(dk, dv)
            dweight = paddle.concat([paddle.matmul(normed_RD.index_select(rows), dq_RE, transpose_x=True),
                                     paddle.matmul(normed_RD, dkv_RE, transpose_x=True)], axis=1)
            dbias = paddle.concat([sum_over_rows(dq_RE), sum_over_rows(dkv_RE)])
            dnormed_RD = paddle.matmul(dkv_RE, qkv[:, inner:], transpose_y=True)
            dnormed_RD = _add_rows(dnormed_RD, rows, paddle.matmul(dq_RE, qkv[:, :inner], transpose_y=True))
        del normed_RD
        dx_RD, dgain, dshift = norm_gradient(x.reshape([-1, width]), dnormed_RD, gain, eps)
        dy_RD = dy.reshape([-1, width])
        dx_RD = dx_RD.add_(dy_RD) if rows is None else _add_rows(dx_RD, rows, dy_RD)
        return _wanted(ctx, dx_RD.reshape(x.shape), dgain, dshift, dweight, dbias, drel, dproj, dproj_bias, dgamma,
                       None, None)


class _MlpHalf(PyLayer):
    @staticmethod
    def forward(ctx, x, gain, shift, fc1, fc1_bias, fc2, fc2_bias, gamma, eps, keep):
        width = x.shape[-1]
        normed_RD = F.layer_norm(x, [width], gain, shift, eps).reshape([-1, width])
        hidden_RF = product_and_bias(normed_RD, fc1, fc1_bias)
        del normed_RD
        branch = product_and_bias(F.gelu(hidden_RF), *_scaled(fc2, fc2_bias, gamma)).reshape(x.shape)
        ctx.save_for_backward(x, hidden_RF)
        ctx.weights = gain, shift, fc1, fc1_bias, fc2, fc2_bias, gamma
        ctx.wanted = _needs(x, *ctx.weights, keep)
        ctx.settings = eps, keep
        return _add_branch(x, branch, keep)

    @staticmethod
    def backward(ctx, dy):
        x, hidden_RF = ctx.saved_tensor()
        gain, shift, fc1, _, fc2, fc2_bias, gamma = ctx.weights
        eps, keep = ctx.settings
        width = x.shape[-1]
        # gelu(h) = h * cdf(h), its derivative cdf(h) + h * density(h); in place: these arrays are the largest
        cdf_RF = paddle.erf(paddle.scale(hidden_RF, math.sqrt(0.5))).scale_(0.5, bias=0.5)
        dhidden_RF, dfc2, dfc2_bias, dgamma = _residual_gradient(dy, hidden_RF * cdf_RF, fc2, fc2_bias, gamma, keep)
        slope_RF = paddle.square(hidden_RF).scale_(-0.5).exp_().scale_(1 / math.sqrt(2 * math.pi))
        dhidden_RF.multiply_(slope_RF.multiply_(hidden_RF).add_(cdf_RF))
        del cdf_RF, slope_RF
        normed_RD = F.layer_norm(x, [width], gain, shift, eps).reshape([-1, width])
        dfc1 = paddle.matmul(normed_RD, dhidden_RF, transpose_x=True)
        dfc1_bias = sum_over_rows(dhidden_RF)
        del normed_RD
        dnormed_RD = paddle.matmul(dhidden_RF, fc1, transpose_y=True)
        dx_RD, dgain, dshift = norm_gradient(x.reshape([-1, width]), dnormed_RD, gain, eps)
        dx = dx_RD.add_(dy.reshape([-1, width])).reshape(x.shape)
        return _wanted(ctx, dx, dgain, dshift, dfc1, dfc1_bias, dfc2, dfc2_bias, dgamma, None)


# -- the residual sum with its linear map -----------------------------------------------------------------------------


def _scaled(weight, bias, gamma):
    """A linear map with gamma multiplied into it: its weight has fewer rows than what it is applied to."""
    return (weight, bias) if gamma is None else (weight * gamma.expand(weight.shape), bias * gamma)


def _add_branch(x, branch, keep):
    """x + keep * branch, in place of branch."""
    if keep is not None:
        branch.multiply_(keep.expand(branch.shape))
    return branch.add_(x)


def _residual_gradient(dy, features, weight, bias, gamma, keep):
    """Gradients of x + keep * gamma * (features @ weight + bias) by features (R, F), weight, bias and gamma.

    The result of the linear map is not needed: with G = features^T dy, dweight is G * gamma, and dgamma, the sum of
    (features @ weight) * dy over the rows, is that of G * weight over its rows.
    """
    dy_RD = dy.reshape([-1, dy.shape[-1]])
    if keep is not None:
        dy_RD = dy_RD * keep.expand(dy.shape).reshape(dy_RD.shape)
    dweight = paddle.matmul(features.reshape([-1, features.shape[-1]]), dy_RD, transpose_x=True)
    dbias = sum_over_rows(dy_RD)
    if gamma is None:
        return paddle.matmul(dy_RD, weight, transpose_y=True), dweight, dbias, None
    dgamma = sum_over_rows(dweight * weight) + dbias * bias
    scaled = gamma.expand(weight.shape)
    return paddle.matmul(dy_RD, weight * scaled, transpose_y=True), dweight.multiply_(scaled), dbias * gamma, dgamma


# -- rows and gradients -----------------------------------------------------------------------------------------------


def _bias_gradient(dscores, shape, read):
    """Gradient of a bias of `shape` (1, H, T, T) from that of the scores (B, H, Q, T)."""
    batch, heads, _, tokens = dscores.shape
    if read is None:
        return sum_over_rows(dscores.reshape([batch, -1])).reshape(shape)
    # A product with the one-hot rows: Paddle's CPU scatter-add runs in one thread.
    by_row = dscores.transpose([0, 2, 1, 3]).reshape([-1, heads * tokens])
    one_hot = F.one_hot(read.flatten(), tokens).astype(dscores.dtype)
    summed = paddle.matmul(one_hot, by_row, transpose_x=True).reshape([tokens, heads, tokens])
    return summed.transpose([1, 0, 2]).unsqueeze(0)


def _attend(q, k, bias, read):
    """Attention weights (B, H, Q, T) of scaled queries; computed again in the backward pass: they are the largest."""
    scores = paddle.matmul(q, k, transpose_y=True)
    if bias is not None:
        scores.add_(bias_of_rows(bias, read).expand(scores.shape))
    return F.softmax_(scores, axis=-1)


def _unstack(stacks, scale):
    """Scaled q, k and v.  What is kept is the stack: few large tensors leave the allocator fewer useless holes."""
    q, k, v = (part for stack in stacks for part in paddle.unbind(stack, axis=0))
    return paddle.scale(q, scale), k, v


def _add_rows(target_RD, rows, values):
    """`values` added to some rows of a tensor, each row at most once."""
    return paddle.scatter(target_RD, rows, target_RD.index_select(rows).add_(values))


def _plus(x, weight, bias):
    return paddle.matmul(x, weight) if bias is None else product_and_bias(x, weight, bias)


def _needs(*tensors):
    """For every argument whether it wants a gradient; None for an argument that is no tensor."""
    return [None if tensor is None else not tensor.stop_gradient for tensor in tensors]


def _wanted(ctx, *gradients):
    """One gradient for every tensor among the arguments, None for those that want none: what PyLayer asks for."""
    return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, ctx.wanted) if wanted is not None)
