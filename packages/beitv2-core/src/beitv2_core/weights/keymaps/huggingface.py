# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of transformers' BEiT on its hub, as pure functions of dictionaries of arrays.

Classes: BeitForImageClassification, BeitForMaskedImageModeling (prefix `beit.`) and BeitModel (no prefix).
transformers 5 renames inside its models and still reads and writes these names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beitv2_core.weights.keymaps.official import INDEX, TABLE, is_linear_weight

_PREFIX = "beit."
_TRUNK = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    f"rel_pos_bias.{TABLE}": f"encoder.relative_position_bias.{TABLE}",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "fc_norm.weight": "pooler.layernorm.weight",
    "fc_norm.bias": "pooler.layernorm.bias",
}
_BLOCK = {
    "gamma_1": "lambda_1",
    "gamma_2": "lambda_2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    f"attn.{TABLE}": f"attention.attention.relative_position_bias.{TABLE}",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_HEADS = {"head.weight": "classifier.weight", "head.bias": "classifier.bias", "lm_head.weight": "lm_head.weight",
          "lm_head.bias": "lm_head.bias"}
_PARTS = ("query", "key", "value")
_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.weight")
_ATTENTION = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.weight")


def from_huggingface(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for a hub state dict; query, key and value become one projection, the only copy made.

    Names that belong to none of the three classes are left out.
    """
    # Masked image modelling normalises outside the trunk, and its trunk has no norm of its own.
    trunk = {theirs: ours for ours, theirs in _TRUNK.items()}
    heads = {theirs: ours for ours, theirs in _HEADS.items()}
    masked = "lm_head.weight" in state
    ours: dict[str, NDArray[Any]] = {}
    for name, array in state.items():
        short = name[len(_PREFIX):] if name.startswith(_PREFIX) else name
        found = _ATTENTION.fullmatch(short)
        if found:
            if found[2] == "query":
                stem = name[: -len("query.weight")]
                parts = [state[f"{stem}{part}.weight"] for part in _PARTS]
                ours[f"blocks.{found[1]}.attn.qkv.weight"] = np.concatenate(parts).T
        elif name in heads:
            ours[heads[name]] = _turned(name, array)
        elif masked and short in ("layernorm.weight", "layernorm.bias"):
            if short == name:
                ours[trunk[short]] = array
        elif short in trunk:
            ours[trunk[short]] = array
        else:
            block = _block_name(short)
            if block is not None:
                ours[block] = _turned(name, array)
    return ours


def to_huggingface(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """Hub names and layouts for our classifier, backbone or model of masked images; weights are views.

    grid: not needed, these classes make their index themselves.
    """
    prefix = _PREFIX if any(name in ours for name in ("head.weight", "lm_head.weight")) else ""
    masked = "lm_head.weight" in ours
    state: dict[str, NDArray[Any]] = {}
    for name, array in ours.items():
        if name in _HEADS:
            state[_HEADS[name]] = _turned(name, array)
        elif masked and name in ("norm.weight", "norm.bias"):
            state[_TRUNK[name]] = array
        elif name in _TRUNK:
            state[prefix + _TRUNK[name]] = array
        else:
            found = _QKV.fullmatch(name)
            if found:
                third = array.shape[1] // 3
                for i, part in enumerate(_PARTS):
                    key = f"{prefix}encoder.layer.{found[1]}.attention.attention.{part}.weight"
                    state[key] = array[:, i * third:(i + 1) * third].T
            else:
                _, number, rest = name.split(".", 2)
                state[f"{prefix}encoder.layer.{number}.{_swapped(rest, _BLOCK) or rest}"] = _turned(name, array)
    return state


def _turned(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array.T if is_linear_weight(name, array) else array


def _block_name(short: str) -> str | None:
    parts = short.split(".", 3)
    if parts[:2] != ["encoder", "layer"] or len(parts) < 4 or short.endswith(INDEX):
        return None
    rest = _swapped(parts[3], {theirs: ours for ours, theirs in _BLOCK.items()})
    return None if rest is None else f"blocks.{parts[2]}.{rest}"


def _swapped(name: str, table: Mapping[str, str]) -> str | None:
    for old, new in table.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old):]
    return None


def class_of(architecture: Mapping[str, Any]) -> str:
    """The class of transformers that a model is, by the head it has."""
    if "num_classes" in architecture:
        return "BeitForImageClassification"
    return "BeitForMaskedImageModeling" if "num_codes" in architecture else "BeitModel"


def config_of(architecture: Mapping[str, Any], classes: Sequence[str] | None = None) -> dict[str, Any]:
    """The `config.json` of transformers' BeitConfig for a model of that architecture.

    The epsilon of the norms is the model's own (transformers' default is another), dropouts are off.
    """
    a = architecture
    pooled = a.get("pooling") == "mean" or a.get("norm") == "pool" or "num_codes" in a
    height, width = a["image_size"]
    config = {
        "architectures": [class_of(a)], "model_type": "beit", "hidden_size": a["width"],
        "num_hidden_layers": a["depth"], "num_attention_heads": a["num_heads"],
        "intermediate_size": int(a["width"] * a["mlp_ratio"]), "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0, "layer_norm_eps": a["norm_eps"],
        "image_size": height if height == width else [height, width], "patch_size": a["patch_size"][0],
        "num_channels": a["in_chans"], "use_mask_token": a["use_mask_token"],
        "use_absolute_position_embeddings": a["use_abs_pos_emb"],
        "use_relative_position_bias": a["use_rel_pos_bias"],
        "use_shared_relative_position_bias": a["use_shared_rel_pos_bias"],
        "layer_scale_init_value": a["init_values"] or 0.0, "use_mean_pooling": pooled,
    }
    if "num_codes" in a:
        config["vocab_size"] = a["num_codes"]
    if "num_classes" in a:
        names = classes or [f"LABEL_{i}" for i in range(a["num_classes"])]  # its own names where there are none
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    return config
