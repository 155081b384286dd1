# SPDX-License-Identifier: Apache-2.0
"""Models and teachers of the configured size."""

from __future__ import annotations

from typing import Any

from ..config import TokenizerConfig
from ..config.frozen import TeacherConfig
from ..config.sections import MimModelConfig, Pixels, TrunkConfig
from ..models.backbone import BEiTBackbone
from ..models.mim import BEiTForMaskedImageModeling
from ..models.skip_unread import SkipUnread
from ..models.vqkd import VQKD


def build_backbone(trunk: TrunkConfig, *, image_size: Pixels, patch_size: Pixels, **options: Any) -> BEiTBackbone:
    """A transformer trunk of the configured size; `options` are passed on (norm, init, in_chans, ...)."""
    return BEiTBackbone(**trunk_options(trunk, image_size=image_size, patch_size=patch_size), **options)


def trunk_options(trunk: TrunkConfig, *, image_size: Pixels, patch_size: Pixels) -> dict[str, Any]:
    """The keyword arguments of `BEiTBackbone` that the settings give."""
    return {
        "image_size": image_size,
        "patch_size": patch_size,
        "width": trunk.width,
        "depth": trunk.depth,
        "num_heads": trunk.num_heads,
        "mlp_ratio": trunk.mlp_ratio,
        "qkv_bias": trunk.qkv_bias,
        "drop_rate": trunk.drop_rate,
        "attn_drop_rate": trunk.attn_drop_rate,
        "drop_path": trunk.drop_path,
        "init_values": trunk.init_values,
        "norm_eps": trunk.norm_eps,
        "use_abs_pos_emb": trunk.positions == "absolute",
        "use_rel_pos_bias": trunk.positions == "relative",
        "use_shared_rel_pos_bias": trunk.positions == "shared_relative",
    }


def build_tokenizer(config: TokenizerConfig, *, teacher_width: int) -> VQKD:
    """The VQ-KD tokenizer of the settings, untrained; its decoder outputs `teacher_width` channels."""
    quantizer = config.quantizer
    encoder = build_backbone(
        config.encoder,
        image_size=config.data.image_size,
        patch_size=config.encoder.patch_size,
        norm="pool",
        recompute=config.train.recompute,
    )
    decoder = build_backbone(
        config.decoder,
        image_size=config.grid,
        patch_size=1,
        in_chans=quantizer.code_dim,
        norm="pool",
        recompute=config.train.recompute,
    )
    return VQKD(
        encoder,
        decoder,
        num_codes=quantizer.num_codes,
        code_dim=quantizer.code_dim,
        teacher_width=teacher_width,
        decay=quantizer.decay,
        beta=quantizer.beta,
        kmeans_init=quantizer.kmeans_init,
        kmeans_iters=quantizer.kmeans_iters,
        input_range="unit",
    )


def build_mim(
    model: MimModelConfig, *, image_size: Pixels, num_codes: int, recompute: bool = False
) -> BEiTForMaskedImageModeling:
    """The backbone that predicts codes, with or without the [CLS] head, freshly initialised."""
    return SkipUnread(
        num_codes=num_codes,
        early_layers=model.early_layers,
        head_layers=model.head_layers,
        share_lm_head=model.share_lm_head,
        recompute=recompute,
        **trunk_options(model, image_size=image_size, patch_size=model.patch_size),
    )


def build_teacher(teacher: TeacherConfig, *, image_size: Pixels, patch_size: Pixels) -> Any:
    """The frozen teacher of the settings; other packages add theirs by the entry points 'beitv2.teachers'."""
    from ..teachers import build_teacher as teacher_by_name

    return teacher_by_name(
        teacher.name,
        weights=teacher.weights,
        sha256=teacher.sha256,
        image_size=image_size,
        patch_size=patch_size,
        **teacher.options,
    )
