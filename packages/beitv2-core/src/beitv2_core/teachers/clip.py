# SPDX-License-Identifier: Apache-2.0
"""CLIP's vision transformer as a teacher (OpenAI's weights, MIT licence, as OpenAI or transformers publish them).

Shape suffixes: B batch, N patches, T tokens = 1 + N, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import WeightsError
from beitv2_core.layers.attention import attention_weights, split_heads
from beitv2_core.pixels.clip import CLIP_MEAN, CLIP_STD
from beitv2_core.pixels.size import pair
from beitv2_core.teachers.base import Teacher, file_state, grid_of, load_strict, resize_positions, square_side
from beitv2_core.weights.architecture import HEADS, ShapeReader
from beitv2_core.weights.keymaps.clip import from_clip, to_clip
from beitv2_core.weights.kind import Kind
from beitv2_core.weights.published.download import resolve_weights
from beitv2_core.weights.published.registry import find_model

PUBLISHED = "clip_vit_b16"  # in weights/published/published_models.yml
HEAD_WIDTH = 64


class _LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32 for any input type, with CLIP's epsilon 1e-5."""

    def __init__(self, width: int):
        super().__init__(width, epsilon=1e-5)

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        return super().forward(input.astype("float32")).astype(input.dtype)


class _QuickGELU(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * F.sigmoid(1.702 * x)


class _Attention(nn.Layer):
    """Self-attention under the names of torch.nn.MultiheadAttention; queries, keys and values all have a bias."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = self.create_parameter([width, 3 * width])
        self.in_proj_bias = self.create_parameter([3 * width], is_bias=True)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BTD: paddle.Tensor) -> paddle.Tensor:
        projected_BTO = F.linear(x_BTD, self.in_proj_weight, self.in_proj_bias)
        q_BHTE, k_BHTE, v_BHTE = paddle.unbind(split_heads(projected_BTO, 3, self.num_heads))
        out_BHTE = paddle.matmul(attention_weights(q_BHTE, k_BHTE), v_BHTE)
        return self.out_proj(out_BHTE.transpose([0, 2, 1, 3]).reshape(x_BTD.shape))


class _Block(nn.Layer):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.attn = _Attention(width, num_heads)
        self.ln_1 = _LayerNorm(width)
        self.mlp = nn.Sequential(
            ("c_fc", nn.Linear(width, 4 * width)), ("gelu", _QuickGELU()), ("c_proj", nn.Linear(4 * width, width))
        )
        self.ln_2 = _LayerNorm(width)

    def forward(self, x_BTD: paddle.Tensor) -> paddle.Tensor:
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD))
        return x_BTD + self.mlp(self.ln_2(x_BTD))


class _Transformer(nn.Layer):
    def __init__(self, width: int, depth: int, num_heads: int):
        super().__init__()
        self.resblocks = nn.LayerList([_Block(width, num_heads) for _ in range(depth)])


class CLIPVisual(nn.Layer):
    """CLIP's image encoder; parameter names are OpenAI's, without their prefix `visual.`.

    image_size: side of the images it was trained on; other sizes resize its position table.
    Source: official vqkd_teacher/clip/model.py, VisionTransformer.
    """

    def __init__(self, *, image_size: int = 224, patch_size: int = 16, width: int = 768, depth: int = 12,
                 num_heads: int = 12, out_width: int = 512):
        super().__init__()
        if width % num_heads:
            raise WeightsError(f"CLIPVisual: width {width} does not divide into {num_heads} heads.")
        self.patch_size, self.out_width = patch_size, out_width
        self.conv1 = nn.Conv2D(3, width, kernel_size=patch_size, stride=patch_size, bias_attr=False)
        self.class_embedding = self.create_parameter([width])
        self.positional_embedding = self.create_parameter([(image_size // patch_size) ** 2 + 1, width])
        self.ln_pre = _LayerNorm(width)
        self.transformer = _Transformer(width, depth, num_heads)
        self.ln_post = _LayerNorm(width)
        self.proj = self.create_parameter([width, out_width])

    def tokens(self, images: paddle.Tensor) -> paddle.Tensor:
        """Tokens (B, T, D) after `ln_post`, class token first, of normalised images (B, 3, H, W).

        An image with as many patches as the position table keeps the table for any shape, as the official code
        does; any other count resizes it.  Raises ShapeError where the image is no whole number of patches.
        """
        patch = (self.patch_size, self.patch_size)
        grid = grid_of("CLIPVisual", (images.shape[2], images.shape[3]), patch)
        x_BND = self.conv1(images).flatten(2).transpose([0, 2, 1])
        class_B1D = self.class_embedding.reshape([1, 1, -1]).expand([x_BND.shape[0], 1, x_BND.shape[2]])
        x_BTD = paddle.concat([class_B1D.astype(x_BND.dtype), x_BND], axis=1)
        table = self.positional_embedding
        if table.shape[0] != x_BTD.shape[1]:
            table = resize_positions(table, grid)
        x_BTD = self.ln_pre(x_BTD + table)
        for block in self.transformer.resblocks:
            x_BTD = block(x_BTD)
        return self.ln_post(x_BTD)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Patch features (B, N, out_width) in the space shared with text: ln_post(patch tokens) @ proj."""
        return paddle.matmul(self.tokens(images)[:, 1:], self.proj)


def _read(source: ShapeReader) -> dict[str, Any]:
    width, _, patch, _ = source.shape("conv1.weight")
    side = math.isqrt(source.shape("positional_embedding")[0] - 1)
    return {"image_size": side * patch, "patch_size": patch, "width": width,
            "depth": source.count("transformer.resblocks."), "num_heads": source.told("num_heads", HEADS.get(width)),
            "out_width": source.shape("proj")[1]}


CLIP = Kind(
    name="clip", package="beitv2-core", marks=("class_embedding", "positional_embedding", "conv1.weight", "proj"),
    read=_read, build=lambda architecture: CLIPVisual(**architecture),
    outputs=lambda model, inputs: {"features": model(inputs[0])}, trunks=(), official="clip", nest=None, noun="teacher")


class CLIPTeacher(Teacher):
    """Patch features of a CLIP vision transformer: the target of two of the three published tokenizers.

    `visual` (CLIPVisual) is frozen; images are resized to give the tokenizer's grid (224 pixels for 14 x 14).
    Source: official modeling_vqkd.py, VQKD.get_regress_target, ScalingLayerForClip.
    """

    mean, std = CLIP_MEAN, CLIP_STD

    def __init__(self, visual: CLIPVisual, *, image_size: int | Sequence[int] = 224,
                 patch_size: int | Sequence[int] = 16):
        grid = grid_of("CLIPTeacher", pair(image_size), pair(patch_size))
        super().__init__(image_size=image_size, patch_size=patch_size, width=visual.out_width,
                         input_size=(grid[0] * visual.patch_size, grid[1] * visual.patch_size))
        self.visual = visual
        self.freeze()

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.visual(images)


def visual_from_state(state: dict[str, np.ndarray], *, source: str = "CLIP weights",
                      num_heads: int | None = None) -> CLIPVisual:
    """The CLIPVisual of a state dict in OpenAI's names; its sizes are read from the arrays.

    num_heads: None for CLIP's rule, width / 64.  Raises WeightsError listing missing and unexpected names.
    """
    ours = from_clip(state)
    try:
        width, patch = ours["conv1.weight"].shape[0], ours["conv1.weight"].shape[-1]
        side, out_width = square_side(source, ours["positional_embedding"]), ours["proj"].shape[1]
    except (KeyError, IndexError):
        raise WeightsError(
            f"{source}: no CLIP vision transformer in this file (visual.conv1.weight, visual.positional_embedding and "
            "visual.proj are needed, or vision_model.embeddings and visual_projection.weight). Expected OpenAI's "
            f"ViT-B-16.pt, {find_model(PUBLISHED).url}, ViT-L-14.pt, or transformers' model.safetensors of them."
        ) from None
    blocks = {name.split(".")[2] for name in ours if name.startswith("transformer.resblocks.")}
    visual = CLIPVisual(image_size=side * patch, patch_size=patch, width=width, depth=len(blocks),
                        num_heads=num_heads or max(1, width // HEAD_WIDTH), out_width=out_width)
    load_strict(visual, ours, source)
    return visual


def clip_architecture(weights: str, num_heads: int | None = None) -> dict[str, Any]:
    """The keyword arguments of the CLIPVisual of a weights file, from the shapes of its tensors."""
    return _read(ShapeReader(from_clip(file_state(CLIP, resolve_weights(weights), to_clip)),
                             hints={"num_heads": num_heads}))


def build_clip(*, weights: str | None, sha256: str | None = None, image_size: int | Sequence[int] = 224,
               patch_size: int | Sequence[int] = 16, num_heads: int | None = None) -> CLIPTeacher:
    """The CLIP teacher from a path or URL of OpenAI's weights file (.pt), or of transformers' (model.safetensors).

    Any size of patch and trunk; the activation is OpenAI's, which no tensor tells: weights trained with another (some
    of LAION's) are not for this teacher.  Nothing in the file is executed.
    sha256: checked when given; OpenAI's own URL brings its own.  Raises WeightsError where weights are missing, cannot
    be fetched, have another hash or belong to another model.
    """
    if not weights:
        model = find_model(PUBLISHED)
        raise WeightsError(
            f"teacher 'clip': no weights were given. Download OpenAI's ViT-B/16 from {model.url} (SHA-256 "
            f"{model.sha256}) and set teacher.weights to the file, or set teacher.weights to that URL."
        )
    path = resolve_weights(weights, sha256)
    visual = visual_from_state(file_state(CLIP, path, to_clip), source=str(weights), num_heads=num_heads)
    return CLIPTeacher(visual, image_size=image_size, patch_size=patch_size)
