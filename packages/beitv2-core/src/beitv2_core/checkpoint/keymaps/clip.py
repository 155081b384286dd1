"""Names and layouts of OpenAI's CLIP weights, as a pure function of a dictionary of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_PREFIX = "visual."


def from_clip(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our names and layouts for the vision tower of a CLIP state dict, float32; the text tower is left out.

    `visual.` is stripped where any name has it.  Linear weights and `in_proj_weight` turn from (out, in) to (in, out);
    `proj` already is (in, out).
    """
    if any(name.startswith(_PREFIX) for name in state):
        state = {name[len(_PREFIX):]: array for name, array in state.items() if name.startswith(_PREFIX)}
    ours = {}
    for name, array in state.items():
        if isinstance(array, np.ndarray):
            turned = array.ndim == 2 and name.endswith((".weight", "in_proj_weight"))
            ours[name] = np.ascontiguousarray(array.T if turned else array, dtype=np.float32)
    return ours
