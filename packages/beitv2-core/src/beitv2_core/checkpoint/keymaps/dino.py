"""Names and layouts of DINO's weights, as a pure function of a dictionary of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_PREFIXES = ("module.", "backbone.")


def from_dino(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our names and layouts for a DINO backbone, float32.

    Takes a released backbone file or a full training checkpoint (then its `teacher`; prefixes `module.` and `backbone.`
    are stripped and the projection head left out).  Linear weights turn from (out, in) to (in, out).
    """
    if isinstance(state.get("teacher"), Mapping):
        state = state["teacher"]
    ours = {}
    for name, array in state.items():
        for prefix in _PREFIXES:
            name = name[len(prefix):] if name.startswith(prefix) else name
        if isinstance(array, np.ndarray) and not name.startswith("head."):
            turned = array.ndim == 2 and name.endswith(".weight")
            ours[name] = np.ascontiguousarray(array.T if turned else array, dtype=np.float32)
    return ours
