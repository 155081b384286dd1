# SPDX-License-Identifier: Apache-2.0
"""Our weights in the formats of others: which kind exists in which, and a trunk taken out of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.architecture import NORM_EPS
from beitv2_core.weights.keymaps import clip, dino, huggingface, official, paddleclas, timm
from beitv2_core.weights.remap import expand_shared_bias
from beitv2_core.weights.shapes import grid_of, shapes_of

Arrays = Mapping[str, np.ndarray]
Keymap = tuple[Callable[[Arrays], dict[str, np.ndarray]], Callable[..., dict[str, np.ndarray]]]

_IMAGE_FORMATS = ("ours", "official", "huggingface", "timm", "paddleclas")
#: the formats each kind exists in; `official` means OpenAI's names for clip, DINO's for dino, mmsegmentation's around
#: the official backbone for segmentation
FORMATS: dict[str, tuple[str, ...]] = {
    "tokenizer": ("ours", "official"),
    "pretraining": ("ours", "official", "huggingface"),
    "classifier": _IMAGE_FORMATS,
    "backbone": _IMAGE_FORMATS,
    "segmentation": ("ours", "official"),
    "clip": ("ours", "official"),
    "dino": ("ours", "official"),
}
#: translation to our names and back, by origin
KEYMAPS: dict[str, Keymap] = {
    "official": (official.from_official, official.to_official),
    "huggingface": (huggingface.from_huggingface, huggingface.to_huggingface),
    "timm": (timm.from_timm, timm.to_timm),
    "paddleclas": (paddleclas.from_paddleclas, paddleclas.to_paddleclas),
    "clip": (clip.from_clip, clip.to_clip),
    "dino": (dino.from_dino, dino.to_dino),
    "ours": (dict, lambda ours, grid=None: dict(ours)),
}
_WITH_TRUNK = ("classifier", "pretraining")  # a segmentation trunk has no final norm, which their classes need
_HEAD_SETTINGS = ("num_classes", "pooling", "num_codes", "early_layers", "head_layers", "share_lm_head")


def to_format(target: str, kind: str, weights: Arrays, architecture: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Names and layouts of a format for our weights, checked that the format has such a model.

    Raises CheckpointError for a format this kind, or this architecture, does not exist in, and says which or why.
    """
    if target not in FORMATS[kind]:
        alone = ", and every format for its trunk alone (--backbone)" if kind in _WITH_TRUNK else ""
        raise CheckpointError(f"{_article(kind)} exists in no format {target!r}. Possible: "
                              f"{', '.join(FORMATS[kind])}{alone}.")
    reason = refusal(target, kind, architecture)
    if reason:
        others = [name for name in FORMATS[kind] if name != target and not refusal(name, kind, architecture)]
        raise CheckpointError(f"this {kind} cannot be written as {target!r}: {reason}. Possible: {', '.join(others)}.")
    return translate(target, kind, weights, architecture)


def translate(target: str, kind: str, weights: Arrays, architecture: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Names and layouts of a format for our weights; arrays are views where they can be."""
    keymap = KEYMAPS[kind if target == "official" and kind in ("clip", "dino") else target]
    trunk = architecture.get("backbone", architecture)
    grid = grid_of(trunk) if isinstance(trunk.get("image_size"), list) else None
    return keymap[1](weights, grid)


def refusal(target: str, kind: str, architecture: Mapping[str, Any]) -> str | None:
    """Why a model of this architecture does not exist in a format, or None where it does."""
    if target not in ("huggingface", "timm", "paddleclas"):
        return None
    a = architecture
    if a.get("head_layers"):
        return "transformers has no [CLS] head; write its trunk alone (--backbone)"
    if a["num_heads"] is None:
        return "how many heads it has is not known; say it with --num-heads"
    if a.get("norm") == "none":
        return "its classes end in a norm, which a segmentation backbone has not"
    square = grid_of(a)[0] == grid_of(a)[1] and a["patch_size"][0] == a["patch_size"][1]
    if target == "huggingface":
        if not square:
            return "transformers' BEiT reads images and patches that are square only"
        if not a["qkv_bias"] or a["attn_head_dim"]:
            return "transformers' attention has biases, and heads of width / num_heads"
    if target in ("timm", "paddleclas") and a["norm_eps"] != NORM_EPS:
        return f"its class has norms of epsilon {NORM_EPS:g}, this model of {a['norm_eps']:g}"
    if target == "timm" and a["use_mask_token"]:
        return "timm's class has no mask token"
    if target == "paddleclas" and (a["use_abs_pos_emb"] or not a["use_rel_pos_bias"] or not a["init_values"]
                                   or a["use_shared_rel_pos_bias"]):
        return "its class has layer scale and a table of relative positions in every block, and no other positions"
    return None


def trunk_alone(kind: str, weights: Arrays, architecture: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict]:
    """Weights and architecture of the kind `backbone` inside a classifier, pretraining or segmentation model.

    Heads and the mask token are left out, a shared table of relative positions is copied into every block.
    Raises CheckpointError for a kind without such a trunk.
    """
    if kind not in ("classifier", "pretraining", "segmentation", "backbone"):
        raise CheckpointError(f"{_article(kind)} holds no trunk to be written alone. Possible: classifier, "
                              "pretraining, segmentation.")
    if kind == "segmentation":
        weights = {name[len("backbone."):]: array for name, array in weights.items() if name.startswith("backbone.")}
        architecture = {**architecture["backbone"], "norm": "none"}
    else:
        pooled = architecture.get("pooling", "mean" if "fc_norm.weight" in weights else "cls") == "mean"
        architecture = {"norm": "pool" if pooled else "final", **architecture}
    trunk = {name: value for name, value in architecture.items() if name not in _HEAD_SETTINGS}
    if trunk["use_shared_rel_pos_bias"]:
        weights = expand_shared_bias(weights, trunk["depth"])
        trunk.update(use_shared_rel_pos_bias=False, use_rel_pos_bias=True)
    trunk["use_mask_token"] = False
    return {name: weights[name] for name in shapes_of("backbone", trunk)}, trunk


def _article(kind: str) -> str:
    return f"a {kind} model" if kind not in ("clip", "dino") else f"a {kind} teacher"
