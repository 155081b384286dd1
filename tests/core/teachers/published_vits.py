# SPDX-License-Identifier: Apache-2.0
"""Small and published vision transformers of others: names and shapes of their files, weights by a formula, features.

`published_vits.json` and `.npz` hold what the references have and answer; `reference_vits.py` recorded them.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

RECORD = Path(__file__).with_suffix(".json")
#: (rows, columns) of patches that are compared: the grid of the position table, a square, and others
GRIDS = ((4, 4), (3, 3), (4, 6), (7, 2))


def recorded() -> dict[str, Any]:
    """Versions of the references, `small` models and `published` ones."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def features() -> dict[str, np.ndarray]:
    """Patch features of the small models, by model and grid."""
    with np.load(RECORD.with_suffix(".npz")) as arrays:
        return dict(arrays)


def weights(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """A value for every tensor, by its name and shape alone: branches, norms, biases and positions all count."""
    state = {}
    for name, shape in shapes.items():
        draws = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
        if "norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.2 * draws
        elif "lambda" in name or "gamma" in name:
            state[name] = 0.3 + 0.1 * draws
        elif len(shape) > 1 and "token" not in name and "pos" not in name:
            state[name] = draws / np.sqrt(np.prod(shape[1:])).astype(np.float32)
        else:
            state[name] = 0.3 * draws
    return state


def images(grid: tuple[int, int], patch: int) -> np.ndarray:
    """An image (1, 3, H, W) of whole patches, in [0, 1]."""
    size = grid[0] * patch, grid[1] * patch
    return np.random.default_rng(5).integers(0, 256, (1, 3, *size), dtype=np.uint8).astype(np.float32) / 255


def expanded(model: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a published file, of which one block is recorded."""
    shapes = dict(model["outer"])
    for number in range(model["depth"]):
        shapes.update({model["block"].format(number) + name: shape for name, shape in model["inner"].items()})
    return {name: tuple(shape) for name, shape in shapes.items()}
