# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of DINO's weights, as pure functions of dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PREFIXES = ("module.", "backbone.")


def from_dino(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for a DINO backbone.

    Takes a released backbone file or a full training checkpoint (then its `teacher`; prefixes `module.` and `backbone.`
    are stripped and the projection head left out).  Linear weights turn from (out, in) to (in, out), as views.
    """
    if isinstance(state.get("teacher"), Mapping):
        state = state["teacher"]
    ours = {}
    for name, array in state.items():
        for prefix in _PREFIXES:
            name = name[len(prefix):] if name.startswith(prefix) else name
        if isinstance(array, np.ndarray) and not name.startswith("head."):
            ours[name] = _turned(name, array)
    return ours


def to_dino(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """The names and layouts of a released DINO backbone for ours.  grid: not needed."""
    return {name: _turned(name, array) for name, array in ours.items()}


def _turned(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array.T if array.ndim == 2 and name.endswith(".weight") else array
