# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of EfficientNet-Lite's PyTorch weights, as a pure function of dictionaries of arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}


def from_efficientnet_lite(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for a state dict of the package efficientnet-lite-pytorch.

    The underscores before names go, statistics of batch norms get Paddle's names, their counts are left out; the
    classifier turns from (out, in) to (in, out), as a view.
    """
    ours = {}
    for name, array in state.items():
        if not isinstance(array, np.ndarray) or name.endswith(".num_batches_tracked"):
            continue
        layer, _, kind = re.sub(r"(^|\.)_", r"\1", name).rpartition(".")
        ours[f"{layer}.{_STATISTICS.get(kind, kind)}"] = array.T if name == "_fc.weight" else array
    return ours
