# SPDX-License-Identifier: Apache-2.0
"""One transformer block."""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.layers.attention import Attention
from beitv2_core.layers.drop_path import DropPath
from beitv2_core.layers.dropout import Dropout
from beitv2_core.layers.fast.cpu_block import AttentionWeights, MlpWeights, attention_half, mlp_half
from beitv2_core.layers.fast.heads import flat_rows
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.linear import Linear, as_written, on_cpu
from beitv2_core.layers.mlp import Mlp


class Block(nn.Layer):
    """Pre-norm attention and MLP, each with layer scale (`gamma_1`, `gamma_2`) and drop path.

    x: (B, T, width); `bias`: shared attention bias (1, H, T, T) or None; `read`: int64 (B, Q), the tokens of every
    sample that anybody reads afterwards: queries, projection and MLP are computed for these alone.
    Returns the shape of x, or (B, Q, width).
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

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None,
                read: paddle.Tensor | None = None) -> paddle.Tensor:
        if on_cpu(x) and self._as_written():
            return self._on_cpu(x, bias, read)
        return self.compose(x, bias, read)

    def compose(self, x: paddle.Tensor, bias: paddle.Tensor | None = None,
                read: paddle.Tensor | None = None) -> paddle.Tensor:
        """The block as its layers define it: what GPUs and static graphs run, and what `forward` equals on the CPU.

        A replaced or subclassed layer and a hook are obeyed on every device: `forward` takes the CPU's own form only
        for exactly the layers it was written for (`cpu_block.py`), and not under BEITV2_PLAIN_LAYERS=1.
        """
        branch = self.attn(self.norm1(x), bias, read)
        if read is not None:
            x = x.flatten(0, 1).index_select(flat_rows(read, x.shape[1])).reshape(branch.shape)
        x = x + self.drop_path(_scaled(branch, self.gamma_1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma_2))

    def _as_written(self) -> bool:
        """True where this block and its layers are exactly those whose arithmetic `cpu_block.py` repeats."""
        attn, mlp = self.attn, self.mlp
        if type(self).compose is not Block.compose or not as_written(attn, Attention) or not as_written(mlp, Mlp):
            return False
        layers = ((self.norm1, LayerNorm), (self.norm2, LayerNorm), (self.drop_path, DropPath), (attn.qkv, nn.Linear),
                  (attn.proj, Linear), (mlp.fc1, Linear), (mlp.act, nn.GELU), (mlp.fc2, Linear))
        drops = attn.attn_drop, attn.proj_drop, mlp.drop
        return (all(as_written(layer, kind) for layer, kind in layers) and mlp.act._approximate is False
                and all(as_written(drop, Dropout) and not (self.training and drop.rate) for drop in drops)
                and attn.qkv.bias is None and not any(layer.bias is None for layer in (mlp.fc1, mlp.fc2, attn.proj))
                and not any(norm.weight is None or norm.bias is None for norm in (self.norm1, self.norm2)))

    def _on_cpu(self, x: paddle.Tensor, bias: paddle.Tensor | None, read: paddle.Tensor | None) -> paddle.Tensor:
        attn, mlp, norm1, norm2 = self.attn, self.mlp, self.norm1, self.norm2
        first = AttentionWeights(norm1.weight, norm1.bias, attn.qkv.weight, attn.qkv_bias(), attn.total_bias(bias),
                                 attn.proj.weight, attn.proj.bias, self.gamma_1)
        x = attention_half(x, first, num_heads=attn.num_heads, scale=attn.scale, eps=norm1._epsilon,
                           keep=self.drop_path.factors(x), read=read)
        second = MlpWeights(norm2.weight, norm2.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias,
                            self.gamma_2)
        return mlp_half(x, second, eps=norm2._epsilon, keep=self.drop_path.factors(x))


def _scaled(branch: paddle.Tensor, gamma: paddle.Tensor | None) -> paddle.Tensor:
    return branch if gamma is None else branch * gamma
