"""Multi-head self-attention with a relative position bias.

Shape suffixes: B batch, T tokens, D width, H heads, E width of one head.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from beitv2_core.layers.layer_norm import LayerNorm, norm_linear
from beitv2_core.layers.linear import Linear, on_cpu, sum_over_rows, uses_cpu_gradients
from beitv2_core.layers.rel_pos_bias import RelativePositionBias


def _heads(qkv: paddle.Tensor, num_heads: int) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    batch, tokens, width = qkv.shape
    split = qkv.reshape([batch, tokens, 3, num_heads, width // (3 * num_heads)])
    # unbind, not indexing: the gradient of `split[0]` fills a full-size tensor of zeros each time.
    q, k, v = paddle.unbind(split.transpose([2, 0, 3, 1, 4]), axis=0)
    return q, k, v


class _AttentionOnCpu(PyLayer):
    """softmax(scale * q k^T + bias) v, with the bias summed over the batch by one product in the backward pass."""

    @staticmethod
    def forward(ctx, qkv, bias, num_heads, scale):
        q, k, v = _heads(qkv, num_heads)
        q = q * scale
        scores = paddle.matmul(q, k, transpose_y=True)
        if bias is not None:
            scores = scores + bias.expand(scores.shape)  # expanded: see linear.product_and_bias
        probs = F.softmax(scores, axis=-1)
        batch, tokens, width = qkv.shape
        out = paddle.matmul(probs, v).transpose([0, 2, 1, 3]).reshape([batch, tokens, width // 3])
        ctx.save_for_backward(q, k, v, probs, out)
        ctx.scale, ctx.bias_shape, ctx.qkv_shape = scale, None if bias is None else bias.shape, qkv.shape
        return out

    @staticmethod
    def backward(ctx, dout):
        q, k, v, probs, out = ctx.saved_tensor()
        batch, heads, tokens, head_width = q.shape
        ones = paddle.ones([head_width, 1], dtype=dout.dtype)
        # Row sums of probs * dprobs, from the output: a head's width instead of all tokens to sum over.
        sums = paddle.matmul((dout * out).reshape([batch, tokens, heads, head_width]), ones).transpose([0, 2, 1, 3])
        dout = dout.reshape([batch, tokens, heads, head_width]).transpose([0, 2, 1, 3])
        dv = paddle.matmul(probs, dout, transpose_x=True)
        dprobs = paddle.matmul(dout, v, transpose_y=True)
        dscores = (dprobs - sums.expand(dprobs.shape)) * probs
        dq = paddle.matmul(dscores, k) * ctx.scale
        dk = paddle.matmul(dscores, q, transpose_x=True)
        dqkv = paddle.stack([dq, dk, dv], axis=0).transpose([1, 3, 0, 2, 4]).reshape(ctx.qkv_shape)
        if ctx.bias_shape is None:
            return dqkv
        return dqkv, sum_over_rows(dscores.reshape([batch, -1])).reshape(ctx.bias_shape)


class Attention(nn.Layer):
    """Self-attention whose key projection has no bias, with an optional relative position bias of its own.

    x: (B, T, D); `bias`: (1, H, T, T) or None, added to the scores together with the block's own bias;
    `norm` is applied to x first.
    Returns (B, T, D); `probabilities` returns the attention map (B, H, T, T) instead.
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
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = Linear(inner, width)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None,
                norm: LayerNorm | None = None) -> paddle.Tensor:
        qkv, bias = self._qkv(x, norm), self._total_bias(bias)
        drops = self.training and self.attn_drop.p > 0
        if not drops and uses_cpu_gradients(qkv) and not qkv.stop_gradient:
            out = _AttentionOnCpu.apply(qkv, bias, self.num_heads, self.scale)
        else:
            q, k, v = _heads(qkv, self.num_heads)
            out = paddle.matmul(self.attn_drop(self._softmax(q, k, bias)), v)
            out = out.transpose([0, 2, 1, 3]).flatten(2)
        return self.proj_drop(self.proj(out))

    def probabilities(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        """The attention map (B, H, T, T) of tokens x (B, T, D), without dropout."""
        q, k, _ = self.heads(x)
        return self._softmax(q, k, self._total_bias(bias))

    def heads(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Queries, keys and values of tokens x (B, T, D), each (B, H, T, E); queries are not yet scaled."""
        return _heads(self._qkv(x), self.num_heads)

    def _qkv(self, x: paddle.Tensor, norm: LayerNorm | None = None) -> paddle.Tensor:
        bias = None
        if self.q_bias is not None:
            bias = paddle.concat([self.q_bias, paddle.zeros_like(self.v_bias), self.v_bias])
        return norm_linear(x, norm, self.qkv.weight, bias)

    def _softmax(self, q: paddle.Tensor, k: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
        scores = paddle.matmul(q * self.scale, k, transpose_y=True)
        if bias is not None and on_cpu(scores):
            bias = bias.expand(scores.shape)
        return F.softmax(scores if bias is None else scores + bias, axis=-1)

    def _total_bias(self, shared: paddle.Tensor | None) -> paddle.Tensor | None:
        if self.grid is None:
            return shared
        tokens = self.grid[0] * self.grid[1] + 1
        own = paddle.index_select(self.relative_position_bias_table, self.relative_position_index, axis=0)
        own = own.reshape([tokens, tokens, -1]).transpose([2, 0, 1]).unsqueeze(0)
        return own if shared is None else own + shared
