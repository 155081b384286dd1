# SPDX-License-Identifier: Apache-2.0
"""Our weights in the formats of others, and a trunk taken out of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.architecture import NORM_EPS, TRUNK_SETTINGS, grid_of, norm_of
from beitv2_core.weights.keymaps import clip, dino, huggingface, official, paddleclas, timm
from beitv2_core.weights.kind import Kind
from beitv2_core.weights.remap import expand_shared_bias

Arrays = Mapping[str, NDArray[Any]]
Keymap = tuple[Callable[[Arrays], dict[str, NDArray[Any]]], Callable[..., dict[str, NDArray[Any]]]]


def _same(ours: Arrays, grid: Optional[tuple[int, int]] = None) -> dict[str, NDArray[Any]]:
    return dict(ours)


#: translation to our names and back, by origin; `official` means the names of the authors' release of a kind: OpenAI's
#: for clip, DINO's for dino
KEYMAPS: dict[str, Keymap] = {
    "official": (official.from_official, official.to_official),
    "huggingface": (huggingface.from_huggingface, huggingface.to_huggingface),
    "timm": (timm.from_timm, timm.to_timm),
    "paddleclas": (paddleclas.from_paddleclas, paddleclas.to_paddleclas),
    "clip": (clip.from_clip, clip.to_clip),
    "dino": (dino.from_dino, dino.to_dino),
    "ours": (_same, _same),
}


def to_format(target: str, kind: Kind, weights: Arrays, architecture: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Names and layouts of a format for our weights, checked that the format has such a model.

    Raises CheckpointError for a format this kind, or this architecture, does not exist in, and says which or why.
    """
    if target not in kind.formats:
        # A trunk inside a prefix has no final norm, which the classes of these formats need.
        alone = ", and every format for its trunk alone (--backbone)" if kind.backbone == "" else ""
        raise CheckpointError(f"{kind} exists in no format {target!r}. Possible: {', '.join(kind.formats)}{alone}.")
    reason = refusal(target, architecture)
    if reason:
        others = [name for name in kind.formats if name != target and not refusal(name, architecture)]
        raise CheckpointError(f"this {kind.name} cannot be written as {target!r}: {reason}. Possible: "
                              f"{', '.join(others)}.")
    return translate(target, kind, weights, architecture)


def translate(target: str, kind: Kind, weights: Arrays, architecture: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Names and layouts of a format for our weights; arrays are views where they can be."""
    keymap = KEYMAPS[kind.official if target == "official" else target]
    trunk = kind.trunk_of(architecture)
    grid = grid_of(trunk) if isinstance(trunk.get("image_size"), list) else None
    return keymap[1](weights, grid)


def refusal(target: str, architecture: Mapping[str, Any]) -> Optional[str]:
    """Why a model of this architecture does not exist in a format, or None where it does."""
    if target not in ("huggingface", "timm", "paddleclas"):
        return None
    a = architecture
    if a.get("head_layers"):
        return "transformers has no [CLS] head; write its trunk alone (--backbone)"
    if a["num_heads"] is None:
        return "how many heads it has is not known; give it by --set num_heads=N"
    if a.get("norm") == "none":
        return "its classes end in a norm, which this backbone has not"
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


def trunk_alone(kind: Kind, weights: Arrays,
                architecture: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Weights and architecture of the trunk inside a model that others can start from (kind `backbone`).

    The mask token is left out, a shared table of relative positions is copied into every block; heads are left to the
    caller, who knows the names of a trunk.  Raises CheckpointError for a kind without such a trunk.
    """
    if kind.backbone is None:
        raise CheckpointError(f"{kind} holds no trunk to be written alone.")
    prefix = f"{kind.backbone}." if kind.backbone else ""
    weights = {name[len(prefix):]: array for name, array in weights.items() if name.startswith(prefix)}
    inside = architecture[kind.backbone] if kind.backbone else architecture
    trunk = {"norm": norm_of(weights), **{name: inside[name] for name in TRUNK_SETTINGS}}
    if trunk["use_shared_rel_pos_bias"]:
        weights = expand_shared_bias(weights, trunk["depth"])
        trunk.update(use_shared_rel_pos_bias=False, use_rel_pos_bias=True)
    trunk["use_mask_token"] = False
    return weights, trunk
