# SPDX-License-Identifier: Apache-2.0
"""The image encoders of EVA-CLIP as teachers, from the files timm publishes.

Base and large (EVA-02) have rotary positions and gated MLPs with inner norms, giant is a plain ViT, enormous normalises
behind its branches.  Weights: MIT (timm's model cards).  Source: EVA-CLIP (arXiv 2303.15389), EVA-02 (2303.11331).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

from beitv2_core.pixels.clip import CLIP_MEAN, CLIP_STD
from beitv2_core.teachers.published import Family, Form, load_vit
from beitv2_core.teachers.vit import ViTTeacher

ENORMOUS = 1792  # width of the model that normalises behind its branches, under the same names
_FUSED = Form(
    label="timm's EVA",
    marks=("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.attn.q_bias", "head.weight"),
    outer={"patch_embed.proj": "patch_embed.proj", "cls_token": "cls_token", "pos_embed": "pos_embed", "norm": "norm",
           "head": "head"},
    block="blocks.{}.",
    inner={"norm1": "norm1", "norm2": "norm2", "attn.qkv": "attn.qkv",
           "attn.qkv.bias": ("attn.q_bias", None, "attn.v_bias"), "attn.proj": "attn.proj", "mlp.fc1": "mlp.fc1",
           "mlp.fc2": "mlp.fc2"},
)
_SPLIT = replace(
    _FUSED, label="timm's EVA-02",
    marks=("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.q_proj.weight", "blocks.0.attn.norm.weight",
           "head.weight"),
    inner={**_FUSED.inner, "attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
           "attn.qkv.bias": ("attn.q_proj.bias", None, "attn.v_proj.bias"), "attn.norm": "attn.norm",
           "mlp.norm": "mlp.norm"},
    gated={"mlp.fc1": ("mlp.fc1_g", "mlp.fc1_x")},
)


def _derived(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"rotary": "counted" if settings["inner_norms"] else None, "post_norm": settings["width"] == ENORMOUS}


EVA_CLIP = Family(
    name="eva_clip", forms=(_FUSED, _SPLIT), heads={768: 12, 1024: 16, 1408: 16, ENORMOUS: 16},
    common={"antialias": True}, optional=frozenset({"gated", "inner_norms", "out_width"}), derived=_derived,
    where="They are on Hugging Face as timm/eva02_base_patch16_clip_224.*, timm/eva02_large_patch14_clip_*, "
          "timm/eva_giant_patch14_clip_224.* and timm/eva02_enormous_patch14_clip_224.* (model.safetensors, or "
          "open_clip's file with all towers).",
)


def build_eva_clip(*, weights: Optional[str], sha256: Optional[str] = None, image_size: int | Sequence[int] = 224,
                   patch_size: int | Sequence[int] = 16, num_heads: Optional[int] = None) -> ViTTeacher:
    """The EVA-CLIP teacher from a path or URL: timm's model.safetensors, or open_clip's file of the same model.

    Features: the patch tokens behind the last norm, projected to the space shared with text, as for `clip`.
    Raises WeightsError where weights are missing, cannot be fetched, have another hash or belong to another model.
    """
    vit = load_vit(EVA_CLIP, weights, sha256, num_heads)
    return ViTTeacher(vit, image_size=image_size, patch_size=patch_size, mean=CLIP_MEAN, std=CLIP_STD)
