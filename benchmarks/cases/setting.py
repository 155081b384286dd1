# SPDX-License-Identifier: Apache-2.0
"""What the cases share: Paddle as `beitv2_core` sets it, and a training step's time and memory."""

from __future__ import annotations

import importlib
import os
from typing import Any, Callable

from harness.timing import peak_bytes, timed

REPEATS = 3


def load_paddle() -> Any:
    """Paddle as our commands run it: threads, the MKL path and the allocator as `beitv2_core` sets them.

    On the CPU; `gpu_check.py` names another device by the variable BENCH_DEVICE.
    """
    importlib.import_module("beitv2_core")
    importlib.import_module("beitv2_core.runtime").keep_freed_memory()
    paddle = importlib.import_module("paddle")
    paddle.set_device(os.environ.get("BENCH_DEVICE", "cpu"))
    paddle.seed(0)
    return paddle


def step_of(optimizer: Any, loss_of: Callable[[], Any]) -> Callable[[], None]:
    """Forward, backward and update as one call."""
    def step() -> None:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)  # as engine/step.py does
        float(loss)

    return step


def timed_step(model: Any, optimizer: Any, loss_of: Callable[[], Any], repeats: int = REPEATS,
               amp: str = "off") -> dict[str, Any]:
    """Time of forward, backward and update, and the process's peak memory after them; amp: as `train.amp`."""
    mixed_precision = importlib.import_module("beitv2_core.layers.fast.products").mixed_precision

    def mixed_loss() -> Any:
        with mixed_precision(amp):
            return loss_of()

    seconds = timed(step_of(optimizer, mixed_loss), repeats)
    parameters = sum(parameter.size for parameter in model.parameters())
    return {"seconds": seconds, "peak_bytes": peak_bytes(), "parameters": int(parameters)}
