# SPDX-License-Identifier: Apache-2.0
"""Models from the architecture that stands in a converted file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .. import _entry_points
from ..errors import CheckpointError
from ..models.backbone import BEiTBackbone
from ..models.mim import BEiTForMaskedImageModeling
from ..models.vqkd import VQKD

#: other packages build the kinds they own: name -> function(architecture) that gives the model
ENTRY_POINTS = "beitv2.kinds"


def build_described(kind: str, architecture: Mapping[str, Any]) -> Any:
    """The model of a kind and architecture (`checkpoint.architecture`), freshly initialised, in training mode.

    Raises ConfigError where no installed package knows the kind, CheckpointError where the file could not tell
    something the model needs.
    """
    build = _entry_points.load(ENTRY_POINTS, kind, _BUILDERS, "kinds of models")
    _check_complete(kind, architecture)
    return build(architecture)


def _check_complete(kind: str, architecture: Mapping[str, Any]) -> None:
    """What neither weights nor whoever converted them said is asked for, never guessed."""
    parts = [architecture, *(architecture[part] for part in ("encoder", "decoder", "backbone") if part in architecture)]
    missing = [name for name in ("num_heads", "out_indices", "pool_scales") for part in parts if name in part
               and (part[name] is None or isinstance(part[name], list) and None in part[name])]
    if kind == "pretraining" and architecture.get("head_layers") and architecture.get("early_layers") is None:
        missing.append("early_layers")
    if missing:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in dict.fromkeys(missing))
        raise CheckpointError(f"{', '.join(dict.fromkeys(missing))} of this {kind} model is not in its weights. "
                              f"Convert the file with {flags}, as it was trained.")


def _backbone(architecture: Mapping[str, Any]) -> BEiTBackbone:
    return BEiTBackbone(**architecture)


def _tokenizer(architecture: Mapping[str, Any]) -> VQKD:
    rest = {name: value for name, value in architecture.items() if name not in ("encoder", "decoder")}
    encoder, decoder = (BEiTBackbone(**architecture[part], norm="pool") for part in ("encoder", "decoder"))
    return VQKD(encoder, decoder, **rest)


def _pretraining(architecture: Mapping[str, Any]) -> BEiTForMaskedImageModeling:
    return BEiTForMaskedImageModeling(**architecture)


def _clip(architecture: Mapping[str, Any]) -> Any:
    from ..teachers.clip import CLIPVisual

    return CLIPVisual(**architecture)


def _dino(architecture: Mapping[str, Any]) -> Any:
    from ..teachers.dino import DINOVisionTransformer

    (height, _), (patch, _) = architecture["image_size"], architecture["patch_size"]
    return DINOVisionTransformer(image_size=height, patch_size=patch, width=architecture["width"],
                                 depth=architecture["depth"], num_heads=architecture["num_heads"])


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "backbone": _backbone, "tokenizer": _tokenizer, "pretraining": _pretraining, "clip": _clip, "dino": _dino,
}
