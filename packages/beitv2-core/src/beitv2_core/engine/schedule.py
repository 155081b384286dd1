# SPDX-License-Identifier: Apache-2.0
"""Schedules as arrays with one value per step."""

from __future__ import annotations

import numpy as np

from beitv2_core.errors import ConfigError


def cosine_schedule(base_value: float, final_value: float, epochs: int, niter_per_ep: int, warmup_epochs: int = 0,
                    start_warmup_value: float = 0.0, warmup_steps: int = -1) -> np.ndarray:
    """Linear warm-up from `start_warmup_value`, then half a cosine from `base_value` to `final_value`.

    Returns float64 (epochs * niter_per_ep,); the first value of a warm-up is its start (0: a step that moves nothing).
    `warmup_steps` > 0 replaces warmup_epochs * niter_per_ep, and, as in the official code, needs warmup_epochs > 0.
    Raises ConfigError where the warm-up is longer than the schedule.  Source: official utils.py, cosine_scheduler.
    """
    total = epochs * niter_per_ep
    warmup = warmup_steps if warmup_steps > 0 else warmup_epochs * niter_per_ep
    if warmup_steps > 0 and warmup_epochs <= 0:
        raise ConfigError(
            f"cosine_schedule: warmup_steps={warmup_steps} with warmup_epochs={warmup_epochs}; the official schedule "
            "uses warmup_steps only where warmup_epochs > 0. Use step_schedule to count in steps."
        )
    return step_schedule(base_value, final_value, total_steps=total, warmup_steps=warmup,
                         start_warmup_value=start_warmup_value)


def step_schedule(base_value: float, final_value: float, *, total_steps: int, warmup_steps: int = 0,
                  start_warmup_value: float = 0.0) -> np.ndarray:
    """`cosine_schedule` with its length and warm-up given in steps; float64 (total_steps,)."""
    if warmup_steps > total_steps:
        raise ConfigError(
            f"schedule: a warm-up of {warmup_steps} steps is longer than the run of {total_steps}. "
            "Shorten the warm-up or lengthen the run."
        )
    warmup = np.linspace(start_warmup_value, base_value, warmup_steps) if warmup_steps else np.array([])
    steps = np.arange(total_steps - warmup_steps)
    cosine = final_value + 0.5 * (base_value - final_value) * (1 + np.cos(np.pi * steps / max(len(steps), 1)))
    return np.concatenate((warmup, cosine))
