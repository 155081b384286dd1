# SPDX-License-Identifier: Apache-2.0
"""Random weights of EfficientNet-Lite0 that need no file: each tensor is drawn from a generator of its own name."""

from __future__ import annotations

import zlib

import numpy as np


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensors of these names and shapes: kernels that keep the variance of maps, batch norms near the identity."""
    state = {}
    for name, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        kind = name.rpartition(".")[2]
        if kind == "num_batches_tracked":
            state[name] = np.zeros((), np.int64)
        elif kind == "running_var" or kind == "weight" and len(shape) == 1:
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1:
            state[name] = rng.normal(0, 0.3, shape).astype(np.float32)
        else:
            state[name] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    return state
