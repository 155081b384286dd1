"""One transformer block."""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.layers.attention import Attention
from beitv2_core.layers.drop_path import DropPath
from beitv2_core.layers.layer_norm import LayerNorm
from beitv2_core.layers.linear import scaled_residual
from beitv2_core.layers.mlp import Mlp


class Block(nn.Layer):
    """Pre-norm attention and MLP, each with layer scale (`gamma_1`, `gamma_2`) and drop path.

    x: (B, T, width); `bias`: shared attention bias (1, H, T, T) or None.  Returns the shape of x.
    `init_values` None or 0: no layer scale.  Source: official modeling_finetune.py, Block.
    """

    def __init__(self, width: int, num_heads: int, *, mlp_ratio: float = 4.0, qkv_bias: bool = True,
                 drop_rate: float = 0.0, attn_drop_rate: float = 0.0, drop_path: float = 0.0,
                 init_values: float | None = None, norm_eps: float = 1e-6, grid: tuple[int, int] | None = None,
                 head_width: int | None = None):
        super().__init__()
        self.norm1 = LayerNorm(width, epsilon=norm_eps)
        self.attn = Attention(width, num_heads, qkv_bias=qkv_bias, drop_rate=drop_rate,
                              attn_drop_rate=attn_drop_rate, grid=grid, head_width=head_width)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(width, epsilon=norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop_rate)
        if init_values:
            constant = nn.initializer.Constant(float(init_values))
            self.gamma_1 = self.create_parameter([width], default_initializer=constant)
            self.gamma_2 = self.create_parameter([width], default_initializer=constant)
        else:
            self.gamma_1 = self.gamma_2 = None

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        # Drop path is a factor per sample and gamma one per channel: their order does not matter.
        x = scaled_residual(x, self.drop_path(self.attn(x, bias, self.norm1)), self.gamma_1)
        return scaled_residual(x, self.drop_path(self.mlp(x, self.norm2)), self.gamma_2)
