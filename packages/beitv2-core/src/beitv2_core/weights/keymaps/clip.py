# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of CLIP's weights, OpenAI's and transformers', as pure functions of dictionaries of arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PREFIX = "visual."
_TRANSFORMERS = "vision_model."
_TRANSFORMERS_MARK = f"{_TRANSFORMERS}embeddings.class_embedding"
#: transformers' names outside the layers, and within one
_OUTER = {"embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
          "embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre",
          "post_layernorm": "ln_post"}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_INNER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
          "mlp.fc2": "mlp.c_proj"}
_QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def from_clip(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for the vision tower of a CLIP state dict; the text tower is left out.

    OpenAI's names, `visual.` stripped where any has it, or transformers' (`vision_model.`, `visual_projection`).
    Linear weights and `in_proj_weight` turn from (out, in) to (in, out), as views; `proj` already is (in, out).
    """
    if _TRANSFORMERS_MARK in state:
        state = _from_transformers(state)
    if any(name.startswith(_PREFIX) for name in state):
        state = {name[len(_PREFIX):]: array for name, array in state.items() if name.startswith(_PREFIX)}
    return {name: _turned(name, array) for name, array in state.items() if isinstance(array, np.ndarray)}


def to_clip(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """OpenAI's names and layouts, with `visual.`, for our vision tower.  grid: not needed."""
    return {_PREFIX + name: _turned(name, array) for name, array in ours.items()}


def _from_transformers(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """OpenAI's names for transformers'; what neither knows keeps its name, so that a strict load lists it.

    Source: transformers models/clip/convert_clip_original_pytorch_to_hf.py.
    """
    openai: dict[str, NDArray[Any]] = {}
    thirds: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in state.items():
        if name == "visual_projection.weight":
            openai["proj"] = array.T
        if not name.startswith(_TRANSFORMERS) or name.endswith("position_ids"):
            continue
        name = name[len(_TRANSFORMERS):]
        layer = _LAYER.fullmatch(name)
        if layer is None:
            module, _, leaf = name.rpartition(".")
            openai[_OUTER.get(name) or f"{_OUTER.get(module, module)}.{leaf}"] = array
            continue
        block, module, leaf = f"transformer.resblocks.{layer[1]}.", layer[2], layer[3]
        if module in _QUERY_KEY_VALUE:
            thirds.setdefault(f"{block}attn.in_proj_{leaf}", {})[module] = array
        else:
            openai[f"{block}{_INNER.get(module, module)}.{leaf}"] = array
    for name, found in thirds.items():
        if len(found) == len(_QUERY_KEY_VALUE):  # otherwise a strict load says that it is missing
            openai[name] = np.concatenate([found[module] for module in _QUERY_KEY_VALUE])
    return openai


def _turned(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array.T if array.ndim == 2 and name.endswith((".weight", "in_proj_weight")) else array
