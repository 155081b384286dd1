# SPDX-License-Identifier: Apache-2.0
"""One transformer block and its MLP; its attention is in `attention.py`.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.layers.attention import Attention, take_tokens
from beitv2_core.layers.drop_path import DropPath
from beitv2_core.layers.dropout import Dropout
from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.cpu_block import block_on_cpu
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.linear import Linear, as_written, on_cpu


class Mlp(nn.Layer):
    """Linear, GELU (erf), Linear, dropout; no dropout after the activation.

    x_BTD: (B, T, D) -> the same shape.  Source: official modeling_finetune.py, Mlp.
    """

    def __init__(self, width: int, hidden: int, drop_rate: float = 0.0):
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, width)
        self.drop = Dropout(drop_rate)

    def forward(self, x_BTD: paddle.Tensor) -> paddle.Tensor:
        return self.drop(self.fc2(self.act(self.fc1(x_BTD))))


class Block(nn.Layer):
    """Pre-norm attention and MLP, each with layer scale (`gamma_1`, `gamma_2`) and drop path.

    x_BTD (B, T, D), bias (1, H, T, T) or None, query_index (B, Q) int64 or None -> (B, T, D), or (B, Q, D).
    `bias`: what all blocks share; `query_index`: tokens whose output is needed, default all.
    `init_values` None or 0: no layer scale.  Source: official modeling_finetune.py, Block.

    On the CPU `forward` computes the same values by `layers/fast/cpu_block.py`, where this block and its layers are
    exactly those that file was written for: no other class, activation or hook.  BEITV2_PLAIN_LAYERS=1 (environment)
    switches that and all other forms of the CPU off.
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

    def forward(self, x_BTD: paddle.Tensor, bias: paddle.Tensor | None = None,
                query_index: paddle.Tensor | None = None) -> paddle.Tensor:
        if on_cpu(x_BTD) and onednn.usable() and x_BTD.dtype == paddle.float32 and self._is_as_written():
            return block_on_cpu(self, x_BTD, bias, query_index)
        return self.compose(x_BTD, bias, query_index)

    def compose(self, x_BTD: paddle.Tensor, bias: paddle.Tensor | None = None,
                query_index: paddle.Tensor | None = None) -> paddle.Tensor:
        """The block as its layers define it: what GPUs and static graphs run, and what `forward` equals on the CPU."""
        branch_BQD = self.attn(self.norm1(x_BTD), bias, query_index)
        x_BQD = x_BTD if query_index is None else take_tokens(x_BTD, query_index)
        x_BQD = x_BQD + self.drop_path(_scaled(branch_BQD, self.gamma_1))
        return x_BQD + self.drop_path(_scaled(self.mlp(self.norm2(x_BQD)), self.gamma_2))

    def _is_as_written(self) -> bool:
        """True where this block and its layers are exactly those whose arithmetic `cpu_block.py` repeats."""
        attn, mlp = self.attn, self.mlp
        if type(self).compose is not Block.compose or not as_written(attn, Attention) or not as_written(mlp, Mlp):
            return False
        layers = ((self.norm1, LayerNorm), (self.norm2, LayerNorm), (self.drop_path, DropPath), (attn.qkv, nn.Linear),
                  (attn.proj, Linear), (mlp.fc1, Linear), (mlp.act, nn.GELU), (mlp.fc2, Linear))
        drops = attn.attn_drop, attn.proj_drop, mlp.drop
        return (all(as_written(layer, kind) for layer, kind in layers) and mlp.act._approximate is False
                and all(as_written(drop, Dropout) and not (drop.training and drop.rate) for drop in drops)
                and attn.qkv.bias is None and not any(layer.bias is None for layer in (mlp.fc1, mlp.fc2, attn.proj))
                and not any(norm.weight is None or norm.bias is None for norm in (self.norm1, self.norm2)))


def _scaled(branch_BQD: paddle.Tensor, gamma_D: paddle.Tensor | None) -> paddle.Tensor:
    return branch_BQD if gamma_D is None else branch_BQD * gamma_D
