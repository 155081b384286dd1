# SPDX-License-Identifier: Apache-2.0
"""Load a pretrained trunk into another model: heads are left out by name, position terms are resized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ..errors import CheckpointError
from ..layers.interpolate import bicubic_resize
from ..weights.keymaps.official import TABLE
from ..weights.remap import expand_shared_bias, resize_rel_pos_bias

PRETRAINING_ONLY = ("mask_token", "norm.", "lm_head.", "cls_pt_layers.", "cls_pt_norm.", "cls_pt_lm_head.")


def transfer_trunk(model: Any, weights: Mapping[str, np.ndarray], source: str, *, source_grid: tuple[int, int],
                   fresh: Sequence[str] = ("fc_norm.", "norm.", "head."),
                   drop: Sequence[str] = PRETRAINING_ONLY) -> list[str]:
    """Load a pretrained trunk into `model`, position terms resized to its grid; returns the names not loaded.

    drop: beginnings of names that are left out: what only pretraining has (the final norm too: the official code never
    loads it into `fc_norm`).  fresh: beginnings of names that may be missing.  A shared bias is copied into each block
    where the model has tables of its own.  Raises CheckpointError listing everything else that is missing, left over or
    of another shape.  Source: official run_class_finetuning.py; keys as in `load_state_dict`.
    """
    state = model.state_dict()
    given = {name: array for name, array in weights.items() if not name.startswith(tuple(drop))}
    if f"blocks.0.attn.{TABLE}" in state:
        given = expand_shared_bias(given, model.depth)
    given = resized_positions(given, source_grid, model.grid)
    missing = sorted(name for name in set(state) - set(given) if not name.startswith(tuple(fresh)))
    extra = sorted(set(given) - set(state))
    wrong = [f"{name} {tuple(given[name].shape)} instead of {tuple(state[name].shape)}" for name in sorted(given)
             if name in state and list(given[name].shape) != list(state[name].shape)]
    if missing or extra or wrong:
        parts = [f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
                 for what, names in (("missing", missing), ("left over", extra), ("of another shape", wrong)) if names]
        raise CheckpointError(
            f"{source}: not a trunk for this {type(model).__name__}: {'; '.join(parts)}. {_advice(given, state)}"
        )
    kept = sorted(set(state) - set(given))  # named too: Paddle warns of every name that it is not given
    model.set_state_dict({**{name: state[name] for name in kept},
                          **{name: paddle.to_tensor(np.ascontiguousarray(array)).astype(state[name].dtype)
                             for name, array in given.items()}})
    return kept


def _advice(given: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    if not set(given) & set(state):
        return "No name of the two is the same: it is another network, or its names were changed."
    return "Use the width, depth, patch size, layer scale and position scheme it was pretrained with."


def resized_positions(weights: Mapping[str, np.ndarray], source: tuple[int, int], target: tuple[int, int],
                      prefix: str = "") -> dict[str, np.ndarray]:
    """Weights with the position tables of the trunk whose names begin with `prefix` made for another grid.

    Source: official run_class_finetuning.py.
    """
    out = dict(weights)
    for name in (name for name in weights if name.startswith(prefix)):
        if name.endswith(TABLE):
            out[name] = resize_rel_pos_bias(weights[name], source, target)
        elif name == f"{prefix}pos_embed":
            out[name] = resize_pos_embed(weights[name], source, target)
    return out


def resize_pos_embed(table: np.ndarray, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """An absolute position table (1, 1 + N, D) for another grid: bicubic, the class token's row unchanged.

    Source: official run_class_finetuning.py, the `pos_embed` block.
    """
    if source == target:
        return table
    patches = paddle.to_tensor(table[:, 1:]).reshape([1, *source, -1]).transpose([0, 3, 1, 2])
    resized = bicubic_resize(patches, target).transpose([0, 2, 3, 1]).reshape([1, -1, table.shape[-1]])
    return np.concatenate([table[:, :1], resized.numpy()], axis=1)
