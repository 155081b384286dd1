# SPDX-License-Identifier: Apache-2.0
"""Random weights of the released models at their full size: cheap to make, every element another within its tensor."""

from __future__ import annotations

import math

import numpy as np

from beitv2_core.rel_pos_index import relative_position_index

_BLOCK = 1 << 20


def random_state(schema: dict[str, list[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of a schema's names and shapes, float32, on the scale of trained ones; buffers as the official code's."""
    block = np.random.default_rng(seed).standard_normal(_BLOCK, dtype=np.float32) * np.float32(0.02)
    state = {}
    for number, (name, shape) in enumerate(schema.items()):
        if name.endswith("relative_position_index"):
            state[name] = relative_position_index((math.isqrt(shape[0] - 1),) * 2)
        elif name.endswith("num_batches_tracked"):
            state[name] = np.array(number, np.int64)
        else:
            values = np.resize(np.roll(block, 7919 * number), math.prod(shape)).reshape(shape)
            centred = name.endswith(("running_var", ".weight")) and len(shape) == 1
            state[name] = np.abs(values) + 1 if centred else values
    return state
