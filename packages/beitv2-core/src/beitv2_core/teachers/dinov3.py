# SPDX-License-Identifier: Apache-2.0
"""DINOv3's vision transformers as teachers: rotary positions, four registers, patches of 16 pixels.

Licence: the weights are under the DINOv3 License of Meta, which is no open-source licence; who uses them, or features
and models made with them, accepts its terms.  They are given out after a request, so that no address is listed here.
Source: DINOv3 (arXiv 2508.10104).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

from beitv2_core.errors import ConfigError
from beitv2_core.pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from beitv2_core.teachers.published import Family, Form, load_vit
from beitv2_core.teachers.vit import ViTTeacher

#: mean and deviation by the images a model was trained on (README.md of facebookresearch/dinov3, image transforms)
NORMALISATION = {"web": (IMAGENET_MEAN, IMAGENET_STD), "satellite": ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))}
_TRANSFORMERS = Form(
    label="transformers' DINOv3",
    marks=("embeddings.patch_embeddings.weight", "embeddings.register_tokens", "layer.0.attention.q_proj.weight"),
    outer={"patch_embed.proj": "embeddings.patch_embeddings", "cls_token": "embeddings.cls_token",
           "register_tokens": "embeddings.register_tokens", "norm": "norm"},
    block="layer.{}.",
    inner={"norm1": "norm1", "norm2": "norm2", "gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1",
           "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
           "attn.qkv.bias": ("attention.q_proj.bias", None, "attention.v_proj.bias"),
           "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"},
    gated={"mlp.fc1": ("mlp.gate_proj", "mlp.up_proj")},
    beside=("embeddings.mask_token",),
)
# What torch.save writes of a model of transformers 5; its save_pretrained writes the published names.
_TRANSFORMERS_5 = replace(
    _TRANSFORMERS, label="transformers 5's DINOv3", block="model.layer.{}.",
    marks=(*_TRANSFORMERS.marks[:2], "model.layer.0.attention.q_proj.weight"))
_RELEASED = Form(
    label="the released DINOv3",
    marks=("patch_embed.proj.weight", "storage_tokens", "blocks.0.ls1.gamma"),
    outer={"patch_embed.proj": "patch_embed.proj", "cls_token": "cls_token", "register_tokens": "storage_tokens",
           "norm": "norm"},
    block="blocks.{}.",
    inner={"norm1": "norm1", "norm2": "norm2", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "attn.qkv": "attn.qkv",
           "attn.proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
    gated={"mlp.fc1": ("mlp.w1", "mlp.w2"), "mlp.fc2": "mlp.w3"},
    # The norm of the 7B model's local crops is for training; the periods are those of `positions.centred_angles`.
    beside=("mask_token", "rope_embed.periods", "local_cls_norm.", "attn.qkv.bias_mask"),
    masked_keys=True,
)
DINOV3 = Family(
    name="dinov3", forms=(_TRANSFORMERS, _TRANSFORMERS_5, _RELEASED),
    heads={384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32},
    common={"side": None, "rotary": "centred", "layer_scale": True, "epsilon": 1e-5},
    optional=frozenset({"registers", "gated", "qkv_bias"}),
    where="ViT-S, S+, B, L, H+ and 7B/16 are given out by Meta under the DINOv3 License, on request: "
          "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/, or on Hugging Face as "
          "facebook/dinov3-vit* (model.safetensors).",
)


def build_dinov3(*, weights: Optional[str], sha256: Optional[str] = None, image_size: int | Sequence[int] = 224,
                 patch_size: int | Sequence[int] = 16, num_heads: Optional[int] = None,
                 trained_on: str = "web") -> ViTTeacher:
    """The DINOv3 teacher from a path or URL: model.safetensors of transformers, or a released backbone (.pth).

    Features: the patch tokens behind the last norm.  trained_on: "web" (LVD-1689M) or "satellite" (SAT-493M), which
    have another normalisation and the same tensors.  The weights are under the DINOv3 License (see the module).
    Raises WeightsError where weights are missing, cannot be fetched, have another hash or belong to another model,
    ConfigError for other images.
    """
    if trained_on not in NORMALISATION:
        raise ConfigError(f"teacher 'dinov3': trained_on is {trained_on!r}, expected {' or '.join(NORMALISATION)}.")
    mean, std = NORMALISATION[trained_on]
    vit = load_vit(DINOV3, weights, sha256, num_heads)
    return ViTTeacher(vit, image_size=image_size, patch_size=patch_size, mean=mean, std=std)
