"""Relative position bias over a window of patches and one class token.

Shape suffixes: T tokens = 1 + gh * gw, H heads, R rows of the table.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn


def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """Row of the bias table for every pair (query, key) of tokens, (T, T) int64.

    The last three rows of the table serve class -> patch, patch -> class and class -> class, in this order.
    Source: official modeling_finetune.py, RelativePositionBias.__init__.
    """
    gh, gw = grid
    rows = (2 * gh - 1) * (2 * gw - 1) + 3
    y, x = (axis.reshape(-1) for axis in np.meshgrid(np.arange(gh), np.arange(gw), indexing="ij"))
    index = np.empty((gh * gw + 1, gh * gw + 1), dtype=np.int64)
    index[1:, 1:] = (y[:, None] - y[None] + gh - 1) * (2 * gw - 1) + (x[:, None] - x[None] + gw - 1)
    index[0, :] = rows - 3
    index[:, 0] = rows - 2
    index[0, 0] = rows - 1
    return index


class RelativePositionBias(nn.Layer):
    """A learnt bias per head and relative offset; call it for the attention bias (1, H, T, T).

    `relative_position_bias_table` (R, H) starts at zero.  Source: BEiT (arXiv 2106.08254) as in official
    modeling_finetune.py, RelativePositionBias.  Departs: the index is derived, not stored in the checkpoint.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int):
        super().__init__()
        self.grid = grid
        rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
        self.relative_position_bias_table = self.create_parameter(
            [rows, num_heads], default_initializer=nn.initializer.Constant(0.0)
        )
        index = paddle.to_tensor(relative_position_index(grid).reshape(-1))
        self.register_buffer("relative_position_index", index, persistable=False)

    def forward(self) -> paddle.Tensor:
        tokens = self.grid[0] * self.grid[1] + 1
        bias = paddle.index_select(self.relative_position_bias_table, self.relative_position_index, axis=0)
        return bias.reshape([tokens, tokens, -1]).transpose([2, 0, 1]).unsqueeze(0)
