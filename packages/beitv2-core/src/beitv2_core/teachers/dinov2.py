# SPDX-License-Identifier: Apache-2.0
"""DINOv2's vision transformers as teachers, with and without registers.

Weights: Apache-2.0 (facebookresearch/dinov2).  Source: DINOv2 (arXiv 2304.07193), registers (arXiv 2309.16588).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from beitv2_core.pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from beitv2_core.teachers.published import Family, Form, load_vit
from beitv2_core.teachers.vit import ViTTeacher

_TRANSFORMERS = Form(
    label="transformers' DINOv2",
    marks=("embeddings.patch_embeddings.projection.weight", "embeddings.position_embeddings",
           "encoder.layer.0.attention.attention.query.weight"),
    outer={"patch_embed.proj": "embeddings.patch_embeddings.projection", "cls_token": "embeddings.cls_token",
           "register_tokens": "embeddings.register_tokens", "pos_embed": "embeddings.position_embeddings",
           "norm": "layernorm"},
    block="encoder.layer.{}.",
    inner={"norm1": "norm1", "norm2": "norm2", "gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1",
           "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
           "attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
    gated={"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"},
    beside=("embeddings.mask_token",),
)
_RELEASED = Form(
    label="the released DINOv2",
    marks=("patch_embed.proj.weight", "pos_embed", "blocks.0.ls1.gamma"),
    outer={"patch_embed.proj": "patch_embed.proj", "cls_token": "cls_token", "register_tokens": "register_tokens",
           "pos_embed": "pos_embed", "norm": "norm"},
    block="blocks.{}.",
    inner={"norm1": "norm1", "norm2": "norm2", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "attn.qkv": "attn.qkv",
           "attn.proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
    gated={"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"},
    beside=("mask_token",),
)
DINOV2 = Family(
    name="dinov2", forms=(_TRANSFORMERS, _RELEASED), heads={384: 6, 768: 12, 1024: 16, 1536: 24},
    common={"layer_scale": True}, optional=frozenset({"registers", "gated"}),
    derived=lambda settings: {"antialias": settings["registers"] > 0},
    where="ViT-S, B, L and g/14 are listed in https://github.com/facebookresearch/dinov2 (README.md), as .pth, and on "
          "Hugging Face as facebook/dinov2-* (model.safetensors).",
)


def build_dinov2(*, weights: Optional[str], sha256: Optional[str] = None, image_size: int | Sequence[int] = 224,
                 patch_size: int | Sequence[int] = 16, num_heads: Optional[int] = None) -> ViTTeacher:
    """The DINOv2 teacher from a path or URL: model.safetensors of transformers, or a released backbone (.pth).

    Features: the patch tokens behind the last norm.  The position table is resized as transformers does, anti-aliased
    where there are registers; the authors' code without registers samples a tenth of a patch beside it.
    Raises WeightsError where weights are missing, cannot be fetched, have another hash or belong to another model.
    """
    vit = load_vit(DINOV2, weights, sha256, num_heads)
    return ViTTeacher(vit, image_size=image_size, patch_size=patch_size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
