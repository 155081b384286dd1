# SPDX-License-Identifier: Apache-2.0
"""DINO's vision transformer as a teacher.

Shape suffixes: B batch, N patches, T tokens = 1 + N, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import WeightsError
from beitv2_core.layers.attention import split_heads
from beitv2_core.layers.block import Mlp
from beitv2_core.layers.patch_embed import PatchEmbed
from beitv2_core.pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from beitv2_core.pixels.size import pair
from beitv2_core.teachers.base import Teacher, file_state, grid_of, load_strict, resize_positions, square_side
from beitv2_core.weights.architecture import read_trunk
from beitv2_core.weights.keymaps.dino import from_dino, to_dino
from beitv2_core.weights.kind import Kind
from beitv2_core.weights.published.download import resolve_weights
from beitv2_core.weights.published.registry import find_model

PUBLISHED = "dino_vit_b16"  # in weights/published/published_models.yml
HEAD_WIDTH = 64
EPSILON = 1e-6


class _Attention(nn.Layer):
    """Self-attention with a full bias on queries, keys and values."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: paddle.Tensor) -> paddle.Tensor:
        q_BHTE, k_BHTE, v_BHTE = self._heads(x_BTD)
        out_BHTE = paddle.matmul(self._weights(q_BHTE, k_BHTE), v_BHTE)
        return self.proj(out_BHTE.transpose([0, 2, 1, 3]).reshape(x_BTD.shape))

    def probabilities(self, x_BTD: paddle.Tensor) -> paddle.Tensor:
        """The attention map (B, H, T, T)."""
        q_BHTE, k_BHTE, _ = self._heads(x_BTD)
        return self._weights(q_BHTE, k_BHTE)

    def _heads(self, x_BTD: paddle.Tensor) -> list[paddle.Tensor]:
        return paddle.unbind(split_heads(self.qkv(x_BTD), 3, self.num_heads))

    def _weights(self, q_BHTE: paddle.Tensor, k_BHTE: paddle.Tensor) -> paddle.Tensor:
        # Not `attention_weights`: the official code scales the scores, not the queries, and so rounds elsewhere.
        return F.softmax(paddle.matmul(q_BHTE, k_BHTE, transpose_y=True) * q_BHTE.shape[-1] ** -0.5, axis=-1)


class _Block(nn.Layer):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, epsilon=EPSILON)
        self.attn = _Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, epsilon=EPSILON)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x_BTD: paddle.Tensor) -> paddle.Tensor:
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
        return x_BTD + self.mlp(self.norm2(x_BTD))


class DINOVisionTransformer(nn.Layer):
    """DINO's image encoder; parameter names are those of the released backbone files.

    image_size: side of the images it was trained on; other sizes resize its position table.
    Source: official vqkd_teacher/dino.py, VisionTransformer.
    """

    def __init__(self, *, image_size: int = 224, patch_size: int = 16, width: int = 768, depth: int = 12,
                 num_heads: int = 12):
        super().__init__()
        if width % num_heads:
            raise WeightsError(f"DINOVisionTransformer: width {width} does not divide into {num_heads} heads.")
        self.patch_size, self.width = patch_size, width
        self.patch_embed = PatchEmbed((patch_size, patch_size), 3, width)
        self.cls_token = self.create_parameter([1, 1, width])
        self.pos_embed = self.create_parameter([1, (image_size // patch_size) ** 2 + 1, width])
        self.blocks = nn.LayerList([_Block(width, num_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, epsilon=EPSILON)

    def tokens(self, images: paddle.Tensor) -> paddle.Tensor:
        """Normalised tokens (B, T, D), class token first, of normalised images (B, 3, H, W).

        An image keeps the position table only where it is square and has as many patches; otherwise it is resized.
        Raises ShapeError where the image is no whole number of patches.
        """
        x_BTD = self._embed(images)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Patch features (B, N, D): the normalised patch tokens."""
        return self.tokens(images)[:, 1:]

    def last_attention(self, images: paddle.Tensor) -> paddle.Tensor:
        """Attention map (B, H, T, T) of the last block.  Source: official get_last_selfattention."""
        x_BTD = self._embed(images)
        for block in self.blocks[:-1]:
            x_BTD = block(x_BTD)
        return self.blocks[-1].attn.probabilities(self.blocks[-1].norm1(x_BTD))

    def _embed(self, images: paddle.Tensor) -> paddle.Tensor:
        height, width = images.shape[2:]
        grid = grid_of("DINOVisionTransformer", (height, width), (self.patch_size, self.patch_size))
        x_BND = self.patch_embed(images)
        class_B1D = self.cls_token.expand([x_BND.shape[0], 1, self.width]).astype(x_BND.dtype)
        table = self.pos_embed[0]
        if table.shape[0] != grid[0] * grid[1] + 1 or height != width:
            table = resize_positions(table, grid)
        return paddle.concat([class_B1D, x_BND], axis=1) + table


def _build(architecture: Mapping[str, Any]) -> DINOVisionTransformer:
    (height, _), (patch, _) = architecture["image_size"], architecture["patch_size"]
    return DINOVisionTransformer(image_size=height, patch_size=patch, width=architecture["width"],
                                 depth=architecture["depth"], num_heads=architecture["num_heads"])


DINO = Kind(
    name="dino", package="beitv2-core", marks=("blocks.0.attn.qkv.bias", "pos_embed", "norm.weight"),
    unlike=("head.weight", "blocks.0.attn.q_bias", "blocks.0.ls1.gamma"), read=read_trunk, build=_build,
    outputs=lambda model, inputs: {"features": model(inputs[0])}, official="dino", nest=None, noun="teacher")


class DINOTeacher(Teacher):
    """Patch features of a DINO vision transformer: the target of the third published tokenizer.

    `vit` (DINOVisionTransformer) is frozen; images are resized to the pixels that give the tokenizer's grid.
    Source: official modeling_vqkd.py, VQKD.get_regress_target, ScalingLayerForIM.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, vit: DINOVisionTransformer, *, image_size: int | Sequence[int] = 224,
                 patch_size: int | Sequence[int] = 16):
        grid = grid_of("DINOTeacher", pair(image_size), pair(patch_size))
        super().__init__(image_size=image_size, patch_size=patch_size, width=vit.width,
                         input_size=(grid[0] * vit.patch_size, grid[1] * vit.patch_size))
        self.vit = vit
        self.freeze()

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.vit(images)


def vit_from_state(state: dict[str, np.ndarray], *, source: str = "DINO weights",
                   num_heads: int | None = None) -> DINOVisionTransformer:
    """The DINOVisionTransformer of a state dict in DINO's names; its sizes are read from the arrays.

    num_heads: None for DINO's rule, width / 64.  Raises WeightsError listing missing and unexpected names.
    """
    ours = from_dino(state)
    try:
        width, patch = ours["patch_embed.proj.weight"].shape[0], ours["patch_embed.proj.weight"].shape[-1]
        side = square_side(source, ours["pos_embed"])
    except (KeyError, IndexError):
        raise WeightsError(
            f"{source}: no DINO vision transformer in this file (patch_embed.proj.weight and pos_embed are needed). "
            f"Expected {find_model(PUBLISHED).url}."
        ) from None
    blocks = {name.split(".")[1] for name in ours if name.startswith("blocks.")}
    vit = DINOVisionTransformer(image_size=side * patch, patch_size=patch, width=width, depth=len(blocks),
                                num_heads=num_heads or max(1, width // HEAD_WIDTH))
    load_strict(vit, ours, source)
    return vit


def build_dino(*, weights: str | None, sha256: str | None = None, image_size: int | Sequence[int] = 224,
               patch_size: int | Sequence[int] = 16, num_heads: int | None = None) -> DINOTeacher:
    """The DINO teacher from a path or URL of a released backbone (.pth); nothing in the file is executed.

    Raises WeightsError where weights are missing, cannot be fetched, have another hash or belong to another model.
    """
    if not weights:
        raise WeightsError(
            f"teacher 'dino': no weights were given. Download DINO's ViT-B/16 from {find_model(PUBLISHED).url} and set "
            "teacher.weights to the file, or to that URL (and teacher.sha256 to the hash you trust)."
        )
    path = resolve_weights(weights, sha256)
    vit = vit_from_state(file_state(DINO, path, to_dino), source=str(weights), num_heads=num_heads)
    return DINOTeacher(vit, image_size=image_size, patch_size=patch_size)
