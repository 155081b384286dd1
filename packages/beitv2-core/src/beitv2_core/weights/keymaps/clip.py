# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of OpenAI's CLIP weights, as pure functions of dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PREFIX = "visual."


def from_clip(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for the vision tower of a CLIP state dict; the text tower is left out.

    `visual.` is stripped where any name has it.  Linear weights and `in_proj_weight` turn from (out, in) to (in, out),
    as views; `proj` already is (in, out).
    """
    if any(name.startswith(_PREFIX) for name in state):
        state = {name[len(_PREFIX):]: array for name, array in state.items() if name.startswith(_PREFIX)}
    return {name: _turned(name, array) for name, array in state.items() if isinstance(array, np.ndarray)}


def to_clip(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """OpenAI's names and layouts, with `visual.`, for our vision tower.  grid: not needed."""
    return {_PREFIX + name: _turned(name, array) for name, array in ours.items()}


def _turned(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array.T if array.ndim == 2 and name.endswith((".weight", "in_proj_weight")) else array
