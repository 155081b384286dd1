# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of PaddleClas's own BEiT v2 classes, as pure functions of dictionaries of arrays.

Those classes fuse the three biases of attention (`qkv.bias`), keep an index beside every relative position table and
nest the classifier (`head.fc_head`, `head.fc_norm`).  Layouts are Paddle's, as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beitv2_core.weights.keymaps.official import INDEX, TABLE, index_of

_HEAD = {"head.": "head.fc_head.", "fc_norm.": "head.fc_norm."}
_FUSED = "attn.qkv.bias"


def from_paddleclas(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Our names for a state dict of PaddleClas: the fused bias becomes `q_bias` and `v_bias`, as views.

    A bias of the keys adds one number to a whole row of scores, which the softmax takes away again: it is dropped.
    The index buffers and the unused `proj` are dropped too; a patch convolution without bias gets one of zeros.
    """
    ours: dict[str, NDArray[Any]] = {}
    for name, array in state.items():
        if name.endswith(_FUSED):
            third = len(array) // 3
            stem = name[: -len("qkv.bias")]
            ours[f"{stem}q_bias"], ours[f"{stem}v_bias"] = array[:third], array[2 * third:]
        elif not name.endswith(INDEX) and name != "proj":
            ours[_renamed(name, {new: old for old, new in _HEAD.items()})] = array
    convolution = state.get("patch_embed.proj.weight")
    if convolution is not None and "patch_embed.proj.bias" not in ours:
        ours["patch_embed.proj.bias"] = np.zeros(len(convolution), convolution.dtype)
    return ours


def to_paddleclas(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """PaddleClas's names for our weights; the bias of the keys is zero.

    grid: window of the tables where it is not square.
    """
    state: dict[str, NDArray[Any]] = {}
    for name, array in ours.items():
        if name.endswith("attn.q_bias"):
            stem = name[: -len("q_bias")]
            state[f"{stem}qkv.bias"] = np.concatenate([array, np.zeros_like(array), ours[f"{stem}v_bias"]])
        elif not name.endswith("attn.v_bias"):
            state[_renamed(name, _HEAD)] = array
            if name.endswith(TABLE):
                state.update(index_of(name, array, grid))
    return state


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        if name.startswith(old):
            return new + name[len(old):]
    return name
