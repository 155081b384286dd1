# SPDX-License-Identifier: Apache-2.0
"""The feed-forward half of a block."""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.layers.dropout import Dropout
from beitv2_core.layers.fast.linear import Linear


class Mlp(nn.Layer):
    """Linear, GELU (erf), Linear, dropout; no dropout after the activation.

    x: (B, T, width) -> the same shape.  Source: official modeling_finetune.py, Mlp.
    """

    def __init__(self, width: int, hidden: int, drop_rate: float = 0.0):
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, width)
        self.drop = Dropout(drop_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.drop(self.fc2(self.act(self.fc1(x))))
