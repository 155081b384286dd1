# SPDX-License-Identifier: Apache-2.0
"""Tokens to attention heads and back, and the rows of a batch that are read.

Shape suffixes: B batch, T tokens, Q tokens that ask, H heads, E width of one head.
"""

from __future__ import annotations

import paddle


def split_heads(projected: paddle.Tensor, count: int, num_heads: int) -> paddle.Tensor:
    """(B, T, count * H * E) -> (count, B, H, T, E).  Take it apart by `unbind`: an index's gradient is full-size."""
    batch, tokens, width = projected.shape
    return projected.reshape([batch, tokens, count, num_heads, width // (count * num_heads)]).transpose([2, 0, 3, 1, 4])


def join_heads(*parts: paddle.Tensor) -> paddle.Tensor:
    """Tensors (B, H, T, E) -> (B * T, count * H * E), the reverse of `split_heads`."""
    batch, heads, tokens, head_width = parts[0].shape
    joined = paddle.stack(parts, axis=0).transpose([1, 3, 0, 2, 4])
    return joined.reshape([batch * tokens, len(parts) * heads * head_width])


def flat_rows(read: paddle.Tensor, tokens: int) -> paddle.Tensor:
    """Token numbers (B, Q) of every sample as row numbers (B * Q,) of the flattened batch (B * T)."""
    offsets = paddle.arange(read.shape[0], dtype="int64").unsqueeze(-1) * tokens
    return (read + offsets).flatten()


def bias_of_rows(bias: paddle.Tensor, read: paddle.Tensor | None) -> paddle.Tensor:
    """Attention bias (1, H, T, T), or its rows (B, H, Q, T) for the tokens `read` (B, Q)."""
    if read is None:
        return bias
    chosen = bias.squeeze(0).transpose([1, 0, 2]).index_select(read.flatten())
    return chosen.reshape([*read.shape, *chosen.shape[1:]]).transpose([0, 2, 1, 3])
