# SPDX-License-Identifier: Apache-2.0
"""Multi-head self-attention with a relative position bias.

Shape suffixes: B batch, T tokens, Q tokens that ask, D width, H heads, E width of one head.
"""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.layers.dropout import Dropout
from beitv2_core.layers.fast.fused_attention import attention_weights, fused_attention
from beitv2_core.layers.fast.heads import bias_of_rows, flat_rows, split_heads
from beitv2_core.layers.fast.linear import Linear, as_written, linear
from beitv2_core.layers.rel_pos_bias import RelativePositionBias


class Attention(nn.Layer):
    """Self-attention whose key projection has no bias, with an optional relative position bias of its own.

    x: (B, T, D); `bias`: (1, H, T, T) or None, added to the scores together with the block's own bias;
    `read`: int64 (B, Q), the tokens of every sample whose result is wanted, all by default.
    Returns (B, T, D) or (B, Q, D); `probabilities` returns the attention map (B, H, T, T) instead.
    Source: official modeling_finetune.py, Attention.
    """

    def __init__(self, width: int, num_heads: int, *, qkv_bias: bool = True, drop_rate: float = 0.0,
                 attn_drop_rate: float = 0.0, grid: tuple[int, int] | None = None, head_width: int | None = None):
        super().__init__()
        self.num_heads = num_heads
        head_width = head_width or width // num_heads
        inner = head_width * num_heads
        self.scale = head_width ** -0.5
        self.qkv = nn.Linear(width, 3 * inner, bias_attr=False)
        zeros = nn.initializer.Constant(0.0)
        self.q_bias = self.create_parameter([inner], default_initializer=zeros) if qkv_bias else None
        self.v_bias = self.create_parameter([inner], default_initializer=zeros) if qkv_bias else None
        if grid is not None:
            # The table is a parameter of the attention itself, as in the official names `attn.relative_position_...`.
            own = RelativePositionBias(grid, num_heads)
            self.relative_position_bias_table = own.relative_position_bias_table
            self.register_buffer("relative_position_index", own.relative_position_index, persistable=False)
        self.grid = grid
        self.attn_drop = Dropout(attn_drop_rate)
        self.proj = Linear(inner, width)
        self.proj_drop = Dropout(drop_rate)

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None,
                read: paddle.Tensor | None = None) -> paddle.Tensor:
        bias = self.total_bias(bias)
        if read is None:
            q, k, v = self.heads(x)
        else:
            q, k, v = self._asking(x, read)
            bias = None if bias is None else bias_of_rows(bias, read)
        out = None if self.training and self.attn_drop.rate else fused_attention(q, k, v, bias)
        if out is None:
            out = paddle.matmul(self.attn_drop(attention_weights(q, k, bias)), v)
        return self.proj_drop(self.proj(out.transpose([0, 2, 1, 3]).flatten(2)))

    def probabilities(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        """The attention map (B, H, T, T) of tokens x (B, T, D), without dropout."""
        q, k, _ = self.heads(x)
        return attention_weights(q, k, self.total_bias(bias))

    def heads(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Queries, keys and values of tokens x (B, T, D), each (B, H, T, E); queries are not yet scaled."""
        bias = self.qkv_bias()
        if as_written(self.qkv, nn.Linear) and self.qkv.bias is None:
            projected = linear(x, self.qkv.weight, bias)
        else:
            projected = self.qkv(x) if bias is None else self.qkv(x) + bias
        q, k, v = paddle.unbind(split_heads(projected, 3, self.num_heads))
        return q, k, v

    def qkv_bias(self) -> paddle.Tensor | None:
        """Bias (3 * H * E,) of queries, keys (zero) and values, or None."""
        if self.q_bias is None:
            return None
        return paddle.concat([self.q_bias, paddle.zeros_like(self.v_bias), self.v_bias])

    def total_bias(self, shared: paddle.Tensor | None) -> paddle.Tensor | None:
        """The bias (1, H, T, T) of the scores: the block's own and the one all blocks share, each if there is one."""
        if self.grid is None:
            return shared
        tokens = self.grid[0] * self.grid[1] + 1
        own = paddle.index_select(self.relative_position_bias_table, self.relative_position_index, axis=0)
        own = own.reshape([tokens, tokens, -1]).transpose([2, 0, 1]).unsqueeze(0)
        return own if shared is None else own + shared

    def _asking(self, x: paddle.Tensor, read: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Queries of the tokens `read` (B, Q) only; keys and values of all."""
        if not as_written(self.qkv, nn.Linear) or self.qkv.bias is not None:
            q, k, v = self.heads(x)
            by_token = q.transpose([0, 2, 1, 3]).flatten(0, 1).index_select(flat_rows(read, x.shape[1]))
            return by_token.reshape([*read.shape, *by_token.shape[1:]]).transpose([0, 2, 1, 3]), k, v
        inner, bias = self.qkv.weight.shape[1] // 3, self.qkv_bias()
        chosen = x.flatten(0, 1).index_select(flat_rows(read, x.shape[1])).reshape([*read.shape, -1])
        weight = self.qkv.weight
        asked = linear(chosen, weight[:, :inner], None if bias is None else bias[:inner])
        known = linear(x, weight[:, inner:], None if bias is None else bias[inner:])
        (q,) = paddle.unbind(split_heads(asked, 1, self.num_heads))
        k, v = paddle.unbind(split_heads(known, 2, self.num_heads))
        return q, k, v
