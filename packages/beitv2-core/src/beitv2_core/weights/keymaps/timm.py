# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of timm's `Beit`, as pure functions of dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from beitv2_core.weights.keymaps.official import INDEX, from_official, to_official


def from_timm(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Our names and layouts for a state dict of timm's models `beit*` and `beitv2*`: the official names."""
    return from_official(state)


def to_timm(ours: Mapping[str, NDArray[Any]], grid: tuple[int, int] | None = None) -> dict[str, NDArray[Any]]:
    """timm's names and layouts: the official ones without the index buffers, which timm makes itself.

    Source: timm models/beit.py, Beit and checkpoint_filter_fn.
    """
    return {name: array for name, array in to_official(ours, grid).items() if not name.endswith(INDEX)}
