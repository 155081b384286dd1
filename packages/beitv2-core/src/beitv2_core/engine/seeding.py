# SPDX-License-Identifier: Apache-2.0
"""The draws of a step as a function of seed and step."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import paddle


def seed_step(seed: int, step: int, rank: int) -> None:
    """Start the generators anew for a step of the process `rank`.

    Paddle's generator is the same in every process: layers draw for the whole batch and take their own rows
    (`layers/draws.py`).  Python's and numpy's, from which tasks draw (mixup), are each process's own.
    """
    own, shared = (_step_seed(seed, step, number) for number in (rank, 0))
    random.seed(own)
    np.random.seed(own)
    paddle.seed(shared)


def _step_seed(seed: int, step: int, rank: int) -> int:
    key = f"{seed}/{rank}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
