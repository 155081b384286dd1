# SPDX-License-Identifier: Apache-2.0
"""Multi-head self-attention with a relative position bias: `softmax(q k^T / sqrt(E) + bias) v`.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.layers.dropout import Dropout
from beitv2_core.layers.fast.fused_attention import fused_attention
from beitv2_core.layers.fast.linear import Linear, as_written, linear, on_cpu, plus
from beitv2_core.layers.fast.relative_bias import relative_bias
from beitv2_core.layers.init import has_values
from beitv2_core.rel_pos_index import relative_position_index, table_rows


def attention_weights(q_BHQE: paddle.Tensor, k_BHTE: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
    """`softmax(q k^T / sqrt(E) + bias)` over the keys, (B, H, Q, T); bias: (1 or B, H, Q, T)."""
    scores_BHQT = paddle.matmul(q_BHQE * q_BHQE.shape[-1] ** -0.5, k_BHTE, transpose_y=True)
    return F.softmax(scores_BHQT if bias is None else plus(scores_BHQT, bias), axis=-1)


def bias_of(table_PH: paddle.Tensor, index_TT: paddle.Tensor, grid: tuple[int, int]) -> paddle.Tensor:
    """The bias (1, H, T, T) of the scores: for every pair of tokens the table's row at its index, that of `grid`."""
    if on_cpu(table_PH) and table_PH.dtype == paddle.float32:
        return relative_bias(table_PH, grid)
    bias_RH = paddle.index_select(table_PH, index_TT.flatten(), axis=0)
    return bias_RH.reshape([*index_TT.shape, -1]).transpose([2, 0, 1]).unsqueeze(0)


class Attention(nn.Layer):
    """Self-attention whose key projection has no bias, with an optional relative position bias of its own (`grid`).

    x_BTD (B, T, D), bias (1, H, T, T) or None, query_index (B, Q) int64 or None -> (B, T, D), or (B, Q, D).
    `bias` is added to the scores together with the layer's own; `query_index`: tokens whose output is needed, default
    all.
    Source: official modeling_finetune.py, Attention.
    """

    def __init__(self, width: int, num_heads: int, *, qkv_bias: bool = True, drop_rate: float = 0.0,
                 attn_drop_rate: float = 0.0, grid: tuple[int, int] | None = None, head_width: int | None = None):
        super().__init__()
        self.num_heads = num_heads
        inner = (head_width or width // num_heads) * num_heads
        zeros = nn.initializer.Constant(0.0)
        self.qkv = nn.Linear(width, 3 * inner, bias_attr=False)
        self.q_bias = self.create_parameter([inner], default_initializer=zeros) if qkv_bias else None
        self.v_bias = self.create_parameter([inner], default_initializer=zeros) if qkv_bias else None
        self.grid = grid
        if grid is not None:
            self.relative_position_bias_table = self.create_parameter([table_rows(grid), num_heads],
                                                                      default_initializer=zeros)
            self.register_buffer("relative_position_index", _index_of(grid), persistable=False)
        self.attn_drop = Dropout(attn_drop_rate)
        self.proj = Linear(inner, width)
        self.proj_drop = Dropout(drop_rate)

    def forward(self, x_BTD: paddle.Tensor, bias: paddle.Tensor | None = None,
                query_index: paddle.Tensor | None = None) -> paddle.Tensor:
        q_BHQE, k_BHTE, v_BHTE = self.heads(x_BTD, query_index)
        bias = bias_of_queries(self.total_bias(bias), query_index)
        out_BHQE = None
        if not (self.training and self.attn_drop.rate):
            out_BHQE = fused_attention(q_BHQE, k_BHTE, v_BHTE, bias, formula=attention_weights)
        if out_BHQE is None:
            out_BHQE = paddle.matmul(self.attn_drop(attention_weights(q_BHQE, k_BHTE, bias)), v_BHTE)
        return self.proj_drop(self.proj(out_BHQE.transpose([0, 2, 1, 3]).flatten(2)))

    def probabilities(self, x_BTD: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        """The attention map (B, H, T, T) of tokens (B, T, D), without dropout."""
        q_BHTE, k_BHTE, _ = self.heads(x_BTD)
        return attention_weights(q_BHTE, k_BHTE, self.total_bias(bias))

    def heads(self, x_BTD: paddle.Tensor,
              query_index: paddle.Tensor | None = None) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Queries (B, H, Q, E), not yet scaled, keys and values (B, H, T, E) of tokens (B, T, D)."""
        bias_O = self.qkv_bias()
        if not as_written(self.qkv, nn.Linear) or self.qkv.bias is not None:  # another layer, or a hook: it is called
            projected_BTO = self.qkv(x_BTD) if bias_O is None else self.qkv(x_BTD) + bias_O
        elif query_index is not None:
            return self._project_with_selected_queries(x_BTD, query_index)
        else:
            projected_BTO = linear(x_BTD, self.qkv.weight, bias_O)
        q_BHTE, k_BHTE, v_BHTE = paddle.unbind(split_heads(projected_BTO, 3, self.num_heads))
        if query_index is None:
            return q_BHTE, k_BHTE, v_BHTE
        return take_tokens(q_BHTE.transpose([0, 2, 1, 3]), query_index).transpose([0, 2, 1, 3]), k_BHTE, v_BHTE

    def qkv_bias(self) -> paddle.Tensor | None:
        """Bias (3 * H * E,) of queries, keys (zero) and values, or None."""
        if self.q_bias is None:
            return None
        return paddle.concat([self.q_bias, paddle.zeros_like(self.v_bias), self.v_bias])

    def total_bias(self, bias: paddle.Tensor | None) -> paddle.Tensor | None:
        """The bias (1, H, T, T) of the scores: the layer's own and the one all blocks share, each if there is one."""
        if self.grid is None:
            return bias
        own_1HTT = bias_of(self.relative_position_bias_table, self.relative_position_index, self.grid)
        return own_1HTT if bias is None else own_1HTT + bias

    def _project_with_selected_queries(
        self, x_BTD: paddle.Tensor, query_index: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        weight_DO, bias_O = self.qkv.weight, self.qkv_bias()
        inner = weight_DO.shape[1] // 3
        q_bias_O, kv_bias_O = (None, None) if bias_O is None else (bias_O[:inner], bias_O[inner:])
        q_BQO = linear(take_tokens(x_BTD, query_index), weight_DO[:, :inner], q_bias_O)
        kv_BTO = linear(x_BTD, weight_DO[:, inner:], kv_bias_O)
        (q_BHQE,) = paddle.unbind(split_heads(q_BQO, 1, self.num_heads))
        k_BHTE, v_BHTE = paddle.unbind(split_heads(kv_BTO, 2, self.num_heads))
        return q_BHQE, k_BHTE, v_BHTE


class RelativePositionBias(nn.Layer):
    """A bias that all blocks share; call it for (1, H, T, T), T = 1 + the patches of `grid`.

    `relative_position_bias_table` (P, H) starts at zero.  Source: BEiT (arXiv 2106.08254) as in official
    modeling_finetune.py, RelativePositionBias.  Departs: the index is derived, not stored in the checkpoint.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int):
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = self.create_parameter(
            [table_rows(grid), num_heads], default_initializer=nn.initializer.Constant(0.0))
        self.register_buffer("relative_position_index", _index_of(grid), persistable=False)

    def forward(self) -> paddle.Tensor:
        return bias_of(self.relative_position_bias_table, self.relative_position_index, self.grid)


def _index_of(grid: tuple[int, int]) -> paddle.Tensor:
    """The index of `bias_of` for a window of `grid` patches; empty while a model is built without values."""
    return paddle.to_tensor(relative_position_index(grid) if has_values() else [], dtype="int64")


def split_heads(projected_BTO: paddle.Tensor, count: int, num_heads: int) -> paddle.Tensor:
    """(B, T, count * H * E) -> (count, B, H, T, E).  Take it apart by `unbind`: an index's gradient is full-size."""
    batch, tokens, inner = projected_BTO.shape
    parts = projected_BTO.reshape([batch, tokens, count, num_heads, inner // (count * num_heads)])
    return parts.transpose([2, 0, 3, 1, 4])


def row_index(query_index: paddle.Tensor, tokens: int) -> paddle.Tensor:
    """Tokens (B, Q) of every image as rows (B * Q,) of the flattened batch (B * T)."""
    first_B1 = paddle.arange(query_index.shape[0], dtype="int64").unsqueeze(-1) * tokens
    return (query_index + first_B1).flatten()


def take_tokens(x: paddle.Tensor, query_index: paddle.Tensor) -> paddle.Tensor:
    """Tokens (B, Q, ...) of x (B, T, ...)."""
    rows = x.flatten(0, 1).index_select(row_index(query_index, x.shape[1]))
    return rows.reshape([*query_index.shape, *x.shape[2:]])


def bias_of_queries(bias: paddle.Tensor | None, query_index: paddle.Tensor | None) -> paddle.Tensor | None:
    """The rows (B, H, Q, T) of a bias (1, H, T, T) for some queries; the bias itself for all."""
    if bias is None or query_index is None:
        return bias
    rows_RHT = bias.squeeze(0).transpose([1, 0, 2]).index_select(query_index.flatten())
    return rows_RHT.reshape([*query_index.shape, *rows_RHT.shape[1:]]).transpose([0, 2, 1, 3])
