# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of the official PyTorch checkpoints, as pure functions of dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beitv2_core.rel_pos_index import relative_position_index, table_rows, window_of

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
_DEAD = ("embedding.cluster_size", "embedding.embed_avg", INDEX, "num_batches_tracked")
_RENAMED = {"embedding.initted": "initted", "running_mean": "_mean", "running_var": "_variance"}
_CODEBOOK = "embedding.weight"


def from_official(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for an official state dict.

    Linear weights turn from (out, in) to (in, out): they are exactly the 2-D `*.weight` arrays besides the codebook.
    `quantize.embedding.weight` becomes `quantize.codebook`, `embedding.initted` becomes `initted`, the running
    statistics of batch norms get Paddle's names; buffers that nothing reads are dropped.  Arrays are views.
    Source: official modeling_vqkd.py, norm_ema_quantizer.py.
    """
    ours = {}
    for name, array in state.items():
        if name.endswith(_DEAD):
            continue
        if name.endswith(_CODEBOOK):
            ours[name[: -len(_CODEBOOK)] + "codebook"] = array
        elif name.endswith(tuple(_RENAMED)):
            old = next(end for end in _RENAMED if name.endswith(end))
            ours[name[: -len(old)] + _RENAMED[old]] = array
        else:
            ours[name] = array.T if is_linear_weight(name, array) else array
    return ours


def to_official(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """Official names and layouts for our weights, with the buffers a strict load of the official model asks for.

    grid: window of the relative position tables where it is not square.  What the official code never reads is made as
    it makes it: index of every table, `embed_avg` zero, `embedding.cluster_size` the quantizer's own, batches 0.
    Linear weights are views.
    """
    state: dict[str, NDArray[Any]] = {}
    back = {new: old for old, new in _RENAMED.items()}
    for name, array in ours.items():
        stem, _, last = name.rpartition(".")
        stem = stem + "." if stem else ""
        if last == "codebook":
            state[f"{stem}embedding.weight"] = array
            state[f"{stem}embedding.cluster_size"] = ours.get(f"{stem}cluster_size", np.zeros(len(array), array.dtype))
            state[f"{stem}embedding.embed_avg"] = np.zeros_like(array)
        elif last in back:
            state[stem + back[last]] = array
            if last == "_variance":
                state[f"{stem}num_batches_tracked"] = np.zeros((), np.int64)
        else:
            state[name] = array.T if is_linear_weight(name, array) else array
            if last == TABLE:
                state.update(index_of(name, array, grid))
    return state


def index_of(name: str, table: NDArray[Any], grid: tuple[int, int] | None) -> dict[str, NDArray[Any]]:
    """The buffer beside a relative position table, under its name; empty where the window cannot be told."""
    window = grid if grid is not None and table_rows(grid) == len(table) else window_of(len(table))
    return {} if window is None else {name[: -len(TABLE)] + INDEX: relative_position_index(window)}


def is_linear_weight(name: str, array: NDArray[Any]) -> bool:
    """True for the weight of a Linear layer, by name and rank."""
    return array.ndim == 2 and (name.endswith(".weight") or name == "weight") and not name.endswith(_CODEBOOK)
