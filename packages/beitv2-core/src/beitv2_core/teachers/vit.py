# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of the published teachers that are no BEiT trunk: registers, rotary positions, gated MLPs.

Shape suffixes: B batch, N patches, T tokens = leading tokens + N, D width, H heads, E width of a head, F hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import WeightsError
from beitv2_core.layers.attention import attention_weights, split_heads
from beitv2_core.layers.patch_embed import PatchEmbed
from beitv2_core.pixels.size import pair
from beitv2_core.teachers.base import Teacher, grid_of
from beitv2_core.teachers.positions import ROTATIONS, Turn, resized_table


@dataclass(frozen=True)
class ViTSettings:
    """Sizes and variants of a teacher's vision transformer.

    patch_size: pixels of a side; hidden: inner width of the MLP; side: patches a side that the position table has, None
    where there is no table.  class_token, registers: leading tokens; only the class token has a row in the table.
    gated: the MLP is silu(gate) * value.  activation: of a plain MLP, "gelu" or "gelu_tanh".  inner_norms: norms of the
    attention's output and of the MLP's hidden values.  post_norm: a branch is normalised behind instead of before it.
    rotary: a name of `positions.ROTATIONS`, None for none.  antialias: how the table is resized.  out_width: channels
    of a projection behind the last norm, None for none.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    hidden: int
    side: int | None
    class_token: bool = True
    registers: int = 0
    qkv_bias: bool = True
    gated: bool = False
    activation: str = "gelu"
    inner_norms: bool = False
    post_norm: bool = False
    layer_scale: bool = False
    rotary: str | None = None
    antialias: bool = False
    epsilon: float = 1e-6
    out_width: int | None = None

    @property
    def features(self) -> int:
        """Channels of a feature."""
        return self.out_width or self.width


class _Attention(nn.Layer):
    def __init__(self, vit: ViTSettings):
        super().__init__()
        self.num_heads = vit.num_heads
        self.qkv = nn.Linear(vit.width, 3 * vit.width, bias_attr=None if vit.qkv_bias else False)
        self.norm = nn.LayerNorm(vit.width, epsilon=vit.epsilon) if vit.inner_norms else None
        self.proj = nn.Linear(vit.width, vit.width)

    def forward(self, x_BTD: paddle.Tensor, turn: Turn | None) -> paddle.Tensor:
        q_BHTE, k_BHTE, v_BHTE = paddle.unbind(split_heads(self.qkv(x_BTD), 3, self.num_heads))
        if turn is not None:
            q_BHTE, k_BHTE = turn(q_BHTE), turn(k_BHTE)
        out_BHTE = paddle.matmul(attention_weights(q_BHTE, k_BHTE), v_BHTE)
        out_BTD = out_BHTE.transpose([0, 2, 1, 3]).flatten(2)
        return self.proj(out_BTD if self.norm is None else self.norm(out_BTD))


class _Mlp(nn.Layer):
    def __init__(self, vit: ViTSettings):
        super().__init__()
        self.gated, self.tanh = vit.gated, vit.activation == "gelu_tanh"
        self.fc1 = nn.Linear(vit.width, (2 if vit.gated else 1) * vit.hidden)
        self.norm = nn.LayerNorm(vit.hidden, epsilon=vit.epsilon) if vit.inner_norms else None
        self.fc2 = nn.Linear(vit.hidden, vit.width)

    def forward(self, x_BTD: paddle.Tensor) -> paddle.Tensor:
        h_BTF = self.fc1(x_BTD)
        if self.gated:
            gate_BTF, value_BTF = paddle.split(h_BTF, 2, axis=-1)
            h_BTF = F.silu(gate_BTF) * value_BTF
        else:
            h_BTF = F.gelu(h_BTF, approximate=self.tanh)
        return self.fc2(h_BTF if self.norm is None else self.norm(h_BTF))


class _Block(nn.Layer):
    def __init__(self, vit: ViTSettings):
        super().__init__()
        self.post_norm = vit.post_norm
        self.norm1 = nn.LayerNorm(vit.width, epsilon=vit.epsilon)
        self.attn = _Attention(vit)
        self.norm2 = nn.LayerNorm(vit.width, epsilon=vit.epsilon)
        self.mlp = _Mlp(vit)
        self.gamma_1 = self.create_parameter([vit.width]) if vit.layer_scale else None
        self.gamma_2 = self.create_parameter([vit.width]) if vit.layer_scale else None

    def forward(self, x_BTD: paddle.Tensor, turn: Turn | None) -> paddle.Tensor:
        if self.post_norm:
            x_BTD = x_BTD + self.norm1(self.attn(x_BTD, turn))
            return x_BTD + self.norm2(self.mlp(x_BTD))
        branch_BTD = self.attn(self.norm1(x_BTD), turn)
        x_BTD = x_BTD + (branch_BTD if self.gamma_1 is None else branch_BTD * self.gamma_1)
        branch_BTD = self.mlp(self.norm2(x_BTD))
        return x_BTD + (branch_BTD if self.gamma_2 is None else branch_BTD * self.gamma_2)


class TeacherViT(nn.Layer):
    """A vision transformer with the settings of a published one; its weights have names of our own (`published`).

    Raises WeightsError where the heads do not divide the width.
    """

    def __init__(self, vit: ViTSettings):
        super().__init__()
        if vit.width % vit.num_heads or vit.rotary and vit.width // vit.num_heads % 4:
            raise WeightsError(
                f"TeacherViT: width {vit.width} does not divide into {vit.num_heads} heads"
                f"{' of a multiple of 4 channels, which rotary positions need' if vit.rotary else ''}. "
                "Give the number it was trained with as teacher.options num_heads."
            )
        self.settings, self.patch_size, self.out_width = vit, vit.patch_size, vit.features
        self.patch_embed = PatchEmbed((vit.patch_size, vit.patch_size), 3, vit.width)
        self.cls_token = self.create_parameter([1, 1, vit.width]) if vit.class_token else None
        self.register_tokens = self.create_parameter([1, vit.registers, vit.width]) if vit.registers else None
        rows = None if vit.side is None else vit.side ** 2 + vit.class_token
        self.pos_embed = None if rows is None else self.create_parameter([1, rows, vit.width])
        self.blocks = nn.LayerList([_Block(vit) for _ in range(vit.depth)])
        self.norm = nn.LayerNorm(vit.width, epsilon=vit.epsilon)
        self.head = None if vit.out_width is None else nn.Linear(vit.width, vit.out_width)

    def tokens(self, images: paddle.Tensor) -> paddle.Tensor:
        """Normalised tokens (B, T, D) of normalised images (B, 3, H, W): class token, registers, patches row by row.

        Raises ShapeError where the image is no whole number of patches.
        """
        vit = self.settings
        grid = grid_of("TeacherViT", (images.shape[2], images.shape[3]), (vit.patch_size, vit.patch_size))
        x_BTD = self._with_positions(self.patch_embed(images), grid)
        turn = Turn(ROTATIONS[vit.rotary], grid, vit.width // vit.num_heads) if vit.rotary else None
        for block in self.blocks:
            x_BTD = block(x_BTD, turn)
        return self.norm(x_BTD)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Patch features (B, N, out_width): the normalised patch tokens, projected where there is a projection."""
        leading = self.settings.class_token + self.settings.registers
        x_BND = self.tokens(images)[:, leading:]
        return x_BND if self.head is None else self.head(x_BND)

    def _with_positions(self, x_BND: paddle.Tensor, grid: tuple[int, int]) -> paddle.Tensor:
        leading, table = [], self.pos_embed
        if table is not None:
            class_rows = int(self.settings.class_token)
            x_BND = x_BND + resized_table(table[:, class_rows:], grid, antialias=self.settings.antialias)
        if self.cls_token is not None:
            leading.append(self.cls_token if table is None else self.cls_token + table[:, :1])
        if self.register_tokens is not None:
            leading.append(self.register_tokens)
        return paddle.concat([*(one.expand([x_BND.shape[0], -1, -1]) for one in leading), x_BND], axis=1)


class ViTTeacher(Teacher):
    """Patch features of a published vision transformer.

    `vit` (TeacherViT) is frozen; images are resized to the pixels that give the tokenizer's grid: for 14 x 14 patches
    196 pixels to a ViT of patch 14, 224 to one of patch 16.  mean, std: its normalisation.
    """

    def __init__(self, vit: TeacherViT, *, mean: tuple[float, float, float], std: tuple[float, float, float],
                 image_size: int | Sequence[int] = 224, patch_size: int | Sequence[int] = 16):
        grid = grid_of("ViTTeacher", pair(image_size), pair(patch_size))
        super().__init__(image_size=image_size, patch_size=patch_size, width=vit.out_width,
                         input_size=(grid[0] * vit.patch_size, grid[1] * vit.patch_size))
        self.vit, self.mean, self.std = vit, mean, std
        self.freeze()

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.vit(images)
