# SPDX-License-Identifier: Apache-2.0
"""Schedules as arrays with one value per step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import ConfigError


def step_schedule(base_value: float, final_value: float, *, total_steps: int, warmup_steps: int = 0,
                  start_warmup_value: float = 0.0) -> NDArray[Any]:
    """Linear warm-up from `start_warmup_value`, then half a cosine from `base_value` to `final_value`.

    Returns float64 (total_steps,); the first value of a warm-up is its start (0: a step that moves nothing).
    Raises ConfigError where the warm-up is longer than the run.  Source: official utils.py, cosine_scheduler, which
    counts in epochs.
    """
    if warmup_steps > total_steps:
        raise ConfigError(
            f"schedule: a warm-up of {warmup_steps} steps is longer than the run of {total_steps}. "
            "Shorten the warm-up or lengthen the run."
        )
    warmup = np.linspace(start_warmup_value, base_value, warmup_steps) if warmup_steps else np.array([])
    steps = np.arange(total_steps - warmup_steps)
    cosine = final_value + 0.5 * (base_value - final_value) * (1 + np.cos(np.pi * steps / max(len(steps), 1)))
    return np.concatenate((warmup, cosine))
