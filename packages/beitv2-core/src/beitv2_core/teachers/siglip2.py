# SPDX-License-Identifier: Apache-2.0
"""The image encoders of SigLIP and SigLIP 2 as teachers: no class token, patches of 14, 16 or 32 pixels.

Weights: Apache-2.0 (google on Hugging Face).  Source: SigLIP (arXiv 2303.15343), SigLIP 2 (arXiv 2502.14786).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from beitv2_core.teachers.published import Family, Form, load_vit
from beitv2_core.teachers.vit import ViTTeacher

HALF = (0.5, 0.5, 0.5)  # mean and deviation (preprocessor_config.json of the published models)
_TRANSFORMERS = Form(
    label="transformers' SigLIP",
    marks=("embeddings.patch_embedding.weight", "embeddings.position_embedding.weight",
           "encoder.layers.0.self_attn.q_proj.weight"),
    outer={"patch_embed.proj": "embeddings.patch_embedding", "pos_embed": "embeddings.position_embedding.weight",
           "norm": "post_layernorm"},
    block="encoder.layers.{}.",
    inner={"norm1": "layer_norm1", "norm2": "layer_norm2",
           "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attn.proj": "self_attn.out_proj",
           "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
    # The head pools the patches; the other towers of a whole model stand beside `vision_model.`.
    beside=("head.", "embeddings.position_ids"),
    flat_table=True,
)
SIGLIP2 = Family(
    name="siglip2", forms=(_TRANSFORMERS,), heads={768: 12, 1024: 16, 1152: 16, 1536: 16},
    common={"class_token": False, "activation": "gelu_tanh"}, optional=frozenset(),
    where="Base, large, so400m and giant of a fixed image size are on Hugging Face as google/siglip2-* and "
          "google/siglip-* (model.safetensors); NaFlex models are not read.",
)


def build_siglip2(*, weights: Optional[str], sha256: Optional[str] = None, image_size: int | Sequence[int] = 224,
                  patch_size: int | Sequence[int] = 16, num_heads: Optional[int] = None) -> ViTTeacher:
    """The teacher of SigLIP or SigLIP 2 from a path or URL: model.safetensors of transformers, of a fixed image size.

    Features: the patch tokens behind the last norm, before the head pools them.  One file with all towers will do.
    Raises WeightsError where weights are missing, cannot be fetched, have another hash or belong to another model.
    """
    vit = load_vit(SIGLIP2, weights, sha256, num_heads)
    return ViTTeacher(vit, image_size=image_size, patch_size=patch_size, mean=HALF, std=HALF)
