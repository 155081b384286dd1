# SPDX-License-Identifier: Apache-2.0
"""The two halves of a transformer block as the CPU computes them fast: few passes over memory, few tensors kept.

Paddle's element-wise and reducing CPU kernels run in one thread, and its automatic gradient keeps the result of every
operation.  Here what is no product is oneDNN's (`onednn.py`), sums over rows are products with ones, layer scale is
folded into the weights of the linear map before it, and a half keeps for its backward pass its input, q, k, v and what
they give, the MLP's hidden features, nothing else.  Values and gradients are those of `Block.compose`, up to the order
of sums; in bfloat16 (`products.py`) the operands of products are rounded.  `Block.forward` decides whether a block is
one this file was written for.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from beitv2_core.layers.attention import bias_of_queries, row_index
from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.bfloat16 import as_float32
from beitv2_core.layers.fast.heads import (
    Group,
    HeadProduct,
    groups,
    join_products,
    lay_out,
    multiply_heads,
    stay_in_matrix,
)
from beitv2_core.layers.fast.products import operand, product, product_and_bias, rounding, sum_over_rows


def block_on_cpu(block: Any, x_BTD: paddle.Tensor, bias: paddle.Tensor | None,
                 query_index: paddle.Tensor | None) -> paddle.Tensor:
    """`block.compose(x, bias, query_index)` of a `Block` whose layers are those it was built with."""
    attn, mlp, norm1, norm2 = block.attn, block.mlp, block.norm1, block.norm2
    first = AttentionWeights(norm1.weight, norm1.bias, attn.qkv.weight, attn.qkv_bias(), attn.total_bias(bias),
                             attn.proj.weight, attn.proj.bias, block.gamma_1)
    x_BQD = attention_half(x_BTD, first, num_heads=attn.num_heads, eps=norm1._epsilon,
                           keep_B11=block.drop_path.factors(x_BTD), query_index=query_index)
    second = MlpWeights(norm2.weight, norm2.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias,
                        block.gamma_2)
    return mlp_half(x_BQD, second, eps=norm2._epsilon, keep_B11=block.drop_path.factors(x_BQD))


class AttentionWeights(NamedTuple):
    """Parameters of the first half, as the official code shapes them; None where the model has none."""

    gain_D: paddle.Tensor
    shift_D: paddle.Tensor
    qkv_DO: paddle.Tensor
    qkv_bias_O: Optional[paddle.Tensor]
    bias_1HTT: Optional[paddle.Tensor]
    proj_OD: paddle.Tensor
    proj_bias_D: paddle.Tensor
    gamma_D: Optional[paddle.Tensor]


class MlpWeights(NamedTuple):
    """Parameters of the second half."""

    gain_D: paddle.Tensor
    shift_D: paddle.Tensor
    fc1_DF: paddle.Tensor
    fc1_bias_F: paddle.Tensor
    fc2_FD: paddle.Tensor
    fc2_bias_D: paddle.Tensor
    gamma_D: Optional[paddle.Tensor]


def attention_half(x_BTD: paddle.Tensor, weights: AttentionWeights, *, num_heads: int, eps: float,
                   keep_B11: paddle.Tensor | None = None, query_index: paddle.Tensor | None = None) -> paddle.Tensor:
    """`x + keep * gamma * proj(attention(norm(x)))` (B, Q, D), of the tokens of `query_index` only if given.

    keep_B11: drop path's factor of every sample.
    """
    return _AttentionHalf.apply(x_BTD, *weights, num_heads, eps, keep_B11, query_index)


def mlp_half(x_BQD: paddle.Tensor, weights: MlpWeights, *, eps: float,
             keep_B11: paddle.Tensor | None = None) -> paddle.Tensor:
    """`x + keep * gamma * fc2(gelu(fc1(norm(x))))`."""
    return _MlpHalf.apply(x_BQD, *weights, eps, keep_B11)


class _AttentionHalf(PyLayer):
    @staticmethod
    def forward(ctx: Any, x_BTD: paddle.Tensor, gain_D: paddle.Tensor, shift_D: paddle.Tensor, qkv_DO: paddle.Tensor,
                qkv_bias_O: paddle.Tensor | None, bias: paddle.Tensor | None, proj_OD: paddle.Tensor,
                proj_bias_D: paddle.Tensor, gamma_D: paddle.Tensor | None, heads: int, eps: float,
                keep_B11: paddle.Tensor | None, query_index: paddle.Tensor | None) -> paddle.Tensor:
        batch, tokens, width = x_BTD.shape
        inner, rounded = qkv_DO.shape[1] // 3, rounding()
        scale = (inner // heads) ** -0.5
        normed_RD = onednn.layer_norm(x_BTD, gain_D, shift_D, eps).y_RD
        rows_R = None
        if query_index is None:
            parts = [(normed_RD, qkv_DO, qkv_bias_O, 3)]
            residual_BQD = x_BTD
        else:
            rows_R = row_index(query_index, tokens)
            q_bias_O, kv_bias_O = (None, None) if qkv_bias_O is None else (qkv_bias_O[:inner], qkv_bias_O[inner:])
            parts = [(normed_RD.index_select(rows_R), qkv_DO[:, :inner], q_bias_O, 1),
                     (normed_RD, qkv_DO[:, inner:], kv_bias_O, 2)]
            residual_BQD = x_BTD.reshape([-1, width]).index_select(rows_R).reshape([*query_index.shape, width])
        in_matrix = stay_in_matrix(rounded)
        laid_out = [lay_out(product_and_bias(normed, weight_DO, bias_O, rounded, rounds=in_matrix), count, batch,
                            heads, rounded) for normed, weight_DO, bias_O, count in parts]
        del normed_RD, parts
        q_BHQE, k_BHTE, v_BHTE = _groups(laid_out, batch, heads)
        weights_BHQT = _attend(q_BHQE, k_BHTE, scale, bias, query_index, rounded)
        out_BQO = operand(join_products([HeadProduct(weights_BHQT, v_BHTE)], rounded), rounded)
        out_BQO = out_BQO.reshape([*residual_BQD.shape[:2], -1])
        ctx.save_for_backward(x_BTD, out_BQO, *laid_out)
        ctx.weights = gain_D, shift_D, qkv_DO, qkv_bias_O, bias, proj_OD, proj_bias_D, gamma_D
        ctx.wanted = _needs(x_BTD, *ctx.weights, keep_B11, query_index)
        ctx.settings = heads, scale, eps, keep_B11, query_index, rows_R, rounded
        return _add_branch(residual_BQD, product_and_bias(out_BQO, *_scaled(proj_OD, proj_bias_D, gamma_D), rounded),
                           keep_B11)

    @staticmethod
    def backward(ctx: Any, dy_BQD: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        x_BTD, out_BQO, *laid_out = ctx.saved_tensor()
        gain_D, shift_D, qkv_DO, qkv_bias_O, bias, proj_OD, proj_bias_D, gamma_D = ctx.weights
        heads, scale, eps, keep_B11, query_index, rows_R, rounded = ctx.settings
        batch, tokens, width = x_BTD.shape
        q_BHQE, k_BHTE, v_BHTE = _groups(laid_out, batch, heads)
        weights_BHQT = _attend(q_BHQE, k_BHTE, scale, bias, query_index, rounded)
        head_width = q_BHQE.shape[-1]
        dout_RO, dproj_OD, dproj_bias_D, dgamma_D = _residual_gradient(dy_BQD, out_BQO, proj_OD, proj_bias_D, gamma_D,
                                                                       keep_B11, rounded)
        # Row sums of weights * dweights, from the output: a head's width instead of all tokens to sum over.
        ones_E1 = paddle.ones([head_width, 1], dtype=dy_BQD.dtype)
        along_BQO = onednn.multiply(as_float32(out_BQO), dout_RO.reshape(out_BQO.shape))
        sums_BHQ1 = paddle.matmul(along_BQO.reshape([batch, -1, heads, head_width]), ones_E1).transpose([0, 2, 1, 3])
        [dout_BHQE] = groups(lay_out(dout_RO, 1, batch, heads, rounded), 1, batch, heads)
        del dout_RO, along_BQO
        dscores_BHQT = multiply_heads(dout_BHQE, v_BHTE, rounded, transpose_y=True)
        dscores_BHQT = onednn.multiply_(onednn.subtract_(dscores_BHQT, sums_BHQ1), weights_BHQT)
        dbias_1HTT = None if bias is None else _bias_gradient(dscores_BHQT, bias.shape, query_index)
        dscores_BHQT = operand(dscores_BHQT, rounded)
        of_q = HeadProduct(dscores_BHQT, k_BHTE, factor=scale)
        of_k = HeadProduct(dscores_BHQT, q_BHQE, transpose_x=True, factor=scale)
        of_v = HeadProduct(weights_BHQT, dout_BHQE, transpose_x=True)
        joined = [join_products(products, rounded)
                  for products in ([[of_q, of_k, of_v]] if rows_R is None else [[of_q], [of_k, of_v]])]
        del of_q, of_k, of_v, dscores_BHQT, dout_BHQE, sums_BHQ1, weights_BHQT  # large, and no longer needed
        normed = onednn.layer_norm(x_BTD, gain_D, shift_D, eps)
        normed_RD = operand(normed.y_RD, rounded)
        if rows_R is None:
            [dqkv_RO] = joined
            dqkv_bias_O = sum_over_rows(dqkv_RO)
            dqkv_RO = operand(dqkv_RO, rounded)
            dqkv_DO = product(normed_RD, dqkv_RO, rounded, transpose_x=True)
            dnormed_RD = product(dqkv_RO, qkv_DO, rounded, transpose_y=True)
        else:
            inner = qkv_DO.shape[1] // 3
            dq_RO, dkv_RO = joined
            dqkv_bias_O = paddle.concat([sum_over_rows(dq_RO), sum_over_rows(dkv_RO)])
            dq_RO, dkv_RO = operand(dq_RO, rounded), operand(dkv_RO, rounded)
            dqkv_DO = paddle.concat([product(normed.y_RD.index_select(rows_R), dq_RO, rounded, transpose_x=True),
                                     product(normed_RD, dkv_RO, rounded, transpose_x=True)], axis=1)
            dnormed_RD = product(dkv_RO, qkv_DO[:, inner:], rounded, transpose_y=True)
            dnormed_RD = _add_rows(dnormed_RD, rows_R, product(dq_RO, qkv_DO[:, :inner], rounded, transpose_y=True))
        dx_RD, dgain_D, dshift_D = onednn.layer_norm_gradient(x_BTD, dnormed_RD, *normed[1:], gain_D, shift_D, eps)
        dy_RD = dy_BQD.reshape([-1, width])
        dx_RD = onednn.add_(dx_RD, dy_RD) if rows_R is None else _add_rows(dx_RD, rows_R, dy_RD)
        return _wanted(ctx, dx_RD.reshape(x_BTD.shape), dgain_D, dshift_D, dqkv_DO, dqkv_bias_O, dbias_1HTT, dproj_OD,
                       dproj_bias_D, dgamma_D, None, None)


class _MlpHalf(PyLayer):
    @staticmethod
    def forward(ctx: Any, x_BQD: paddle.Tensor, gain_D: paddle.Tensor, shift_D: paddle.Tensor, fc1_DF: paddle.Tensor,
                fc1_bias_F: paddle.Tensor, fc2_FD: paddle.Tensor, fc2_bias_D: paddle.Tensor,
                gamma_D: paddle.Tensor | None, eps: float, keep_B11: paddle.Tensor | None) -> paddle.Tensor:
        rounded = rounding()
        normed_RD = onednn.layer_norm(x_BQD, gain_D, shift_D, eps).y_RD
        hidden_RF = product_and_bias(normed_RD, fc1_DF, fc1_bias_F, rounded)
        del normed_RD
        branch_RD = product_and_bias(onednn.gelu(hidden_RF), *_scaled(fc2_FD, fc2_bias_D, gamma_D), rounded)
        ctx.save_for_backward(x_BQD, hidden_RF)
        ctx.weights = gain_D, shift_D, fc1_DF, fc1_bias_F, fc2_FD, fc2_bias_D, gamma_D
        ctx.wanted = _needs(x_BQD, *ctx.weights, keep_B11)
        ctx.settings = eps, keep_B11, rounded
        return _add_branch(x_BQD, branch_RD.reshape(x_BQD.shape), keep_B11)

    @staticmethod
    def backward(ctx: Any, dy_BQD: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        x_BQD, hidden_RF = ctx.saved_tensor()
        gain_D, shift_D, fc1_DF, _, fc2_FD, fc2_bias_D, gamma_D = ctx.weights
        eps, keep_B11, rounded = ctx.settings
        dhidden_RF, dfc2_FD, dfc2_bias_D, dgamma_D = _residual_gradient(dy_BQD, onednn.gelu(hidden_RF), fc2_FD,
                                                                        fc2_bias_D, gamma_D, keep_B11, rounded)
        dhidden_RF = onednn.gelu_gradient_(dhidden_RF, hidden_RF)
        dhidden_RF = operand(dhidden_RF, rounded)
        dfc1_bias_F = sum_over_rows(dhidden_RF)
        normed = onednn.layer_norm(x_BQD, gain_D, shift_D, eps)
        dfc1_DF = product(normed.y_RD, dhidden_RF, rounded, transpose_x=True)
        dnormed_RD = product(dhidden_RF, fc1_DF, rounded, transpose_y=True)
        dx_RD, dgain_D, dshift_D = onednn.layer_norm_gradient(x_BQD, dnormed_RD, *normed[1:], gain_D, shift_D, eps)
        dx_BQD = onednn.add_(dx_RD, dy_BQD.reshape(dx_RD.shape)).reshape(x_BQD.shape)
        return _wanted(ctx, dx_BQD, dgain_D, dshift_D, dfc1_DF, dfc1_bias_F, dfc2_FD, dfc2_bias_D, dgamma_D, None)


# -- the residual sum with its linear map -----------------------------------------------------------------------------


def _scaled(weight_OD: paddle.Tensor, bias_D: paddle.Tensor,
            gamma_D: paddle.Tensor | None) -> tuple[paddle.Tensor, paddle.Tensor]:
    """A linear map with gamma multiplied into it: its weight has fewer rows than what it is applied to."""
    if gamma_D is None:
        return weight_OD, bias_D
    return onednn.multiply(weight_OD, gamma_D), bias_D * gamma_D


def _add_branch(x_BQD: paddle.Tensor, branch_BQD: paddle.Tensor, keep_B11: paddle.Tensor | None) -> paddle.Tensor:
    """x + keep * branch, in place of branch."""
    if keep_B11 is not None:
        branch_BQD = onednn.multiply_(branch_BQD, keep_B11)
    return onednn.add_(branch_BQD, x_BQD)


def _residual_gradient(
    dy_BQD: paddle.Tensor, x: paddle.Tensor, weight_OD: paddle.Tensor, bias_D: paddle.Tensor,
    gamma_D: paddle.Tensor | None, keep_B11: paddle.Tensor | None, rounded: bool
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor | None]:
    """Gradients of y = residual + keep * gamma * (x @ weight + bias) by x, as a matrix, weight, bias and gamma.

    The result of the linear map is not needed: with G = x^T dy, dweight is G * gamma, and dgamma, the sum of
    (x @ weight) * dy over the rows, is that of G * weight over its rows.
    """
    dy_RD = dy_BQD.reshape([-1, dy_BQD.shape[-1]])
    if keep_B11 is not None:
        dy_RD = onednn.multiply(dy_BQD, keep_B11).reshape(dy_RD.shape)
    dbias_D = sum_over_rows(dy_RD)
    dy_RD = operand(dy_RD, rounded)
    dweight_OD = product(x.reshape([-1, x.shape[-1]]), dy_RD, rounded, transpose_x=True)
    if gamma_D is None:
        return product(dy_RD, weight_OD, rounded, transpose_y=True), dweight_OD, dbias_D, None
    dgamma_D = sum_over_rows(onednn.multiply(dweight_OD, weight_OD)) + dbias_D * bias_D
    dx_RO = product(dy_RD, _scaled(weight_OD, bias_D, gamma_D)[0], rounded, transpose_y=True)
    return dx_RO, onednn.multiply_(dweight_OD, gamma_D), dbias_D * gamma_D, dgamma_D


# -- rows and gradients -----------------------------------------------------------------------------------------------


def _bias_gradient(dscores_BHQT: paddle.Tensor, shape: list[int], query_index: paddle.Tensor | None) -> paddle.Tensor:
    """Gradient of a bias of `shape` (1, H, T, T) from that of the scores."""
    batch, heads, _, tokens = dscores_BHQT.shape
    if query_index is None:
        return sum_over_rows(dscores_BHQT.reshape([batch, -1])).reshape(shape)
    # A product with the one-hot rows: Paddle's CPU scatter-add runs in one thread.
    dscores_RR = dscores_BHQT.transpose([0, 2, 1, 3]).reshape([-1, heads * tokens])
    one_hot_RT = F.one_hot(query_index.flatten(), tokens).astype(dscores_BHQT.dtype)
    dbias_THT = paddle.matmul(one_hot_RT, dscores_RR, transpose_x=True).reshape([tokens, heads, tokens])
    return dbias_THT.transpose([1, 0, 2]).unsqueeze(0)


def _attend(q_BHQE: Group, k_BHTE: Group, scale: float, bias: paddle.Tensor | None,
            query_index: paddle.Tensor | None, rounded: bool) -> paddle.Tensor:
    """Attention weights (B, H, Q, T); computed again in the backward pass: they are the largest."""
    return onednn.softmax_(multiply_heads(q_BHQE, k_BHTE, rounded, transpose_y=True, factor=scale,
                                          plus=bias_of_queries(bias, query_index)))


def _groups(laid_out: list[paddle.Tensor], batch: int, heads: int) -> list[Group]:
    """q, k and v: of one matrix, or q of one and k, v of another."""
    counts = [3] if len(laid_out) == 1 else [1, 2]
    return [group for one, count in zip(laid_out, counts) for group in groups(one, count, batch, heads)]


def _add_rows(target_RD: paddle.Tensor, rows_R: paddle.Tensor, values: paddle.Tensor) -> paddle.Tensor:
    """`values` added to some rows of a tensor, each row at most once."""
    return paddle.scatter(target_RD, rows_R, target_RD.index_select(rows_R).add_(values))


def _needs(*tensors: paddle.Tensor | None) -> list[bool | None]:
    """For every argument whether it wants a gradient; None for an argument that is no tensor."""
    return [None if tensor is None else not tensor.stop_gradient for tensor in tensors]


def _wanted(ctx: Any, *gradients: paddle.Tensor | None) -> tuple[paddle.Tensor | None, ...]:
    """One gradient for every tensor among the arguments, None for those that want none: what PyLayer asks for."""
    return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, ctx.wanted) if wanted is not None)
