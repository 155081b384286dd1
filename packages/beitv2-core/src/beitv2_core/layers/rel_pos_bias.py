# SPDX-License-Identifier: Apache-2.0
"""Relative position bias over a window of patches and one class token.

Shape suffixes: T tokens = 1 + gh * gw, H heads, R rows of the table.
"""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.layers.init import has_values
from beitv2_core.rel_pos_index import relative_position_index, table_rows


class RelativePositionBias(nn.Layer):
    """A learnt bias per head and relative offset; call it for the attention bias (1, H, T, T).

    `relative_position_bias_table` (R, H) starts at zero.  Source: BEiT (arXiv 2106.08254) as in official
    modeling_finetune.py, RelativePositionBias.  Departs: the index is derived, not stored in the checkpoint.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int):
        super().__init__()
        self.grid = grid
        rows = table_rows(grid)
        self.relative_position_bias_table = self.create_parameter(
            [rows, num_heads], default_initializer=nn.initializer.Constant(0.0)
        )
        index = paddle.to_tensor(relative_position_index(grid).reshape(-1) if has_values() else [], dtype="int64")
        self.register_buffer("relative_position_index", index, persistable=False)

    def forward(self) -> paddle.Tensor:
        tokens = self.grid[0] * self.grid[1] + 1
        bias = paddle.index_select(self.relative_position_bias_table, self.relative_position_index, axis=0)
        return bias.reshape([tokens, tokens, -1]).transpose([2, 0, 1]).unsqueeze(0)
