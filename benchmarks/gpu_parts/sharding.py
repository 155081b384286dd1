# SPDX-License-Identifier: Apache-2.0
"""Two processes, with `train.sharding` off, stage1 and stage2, train as one process does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cases.setting import load_paddle

from gpu_parts import stage_runs
from gpu_parts.report import tested

ALLOWED = 1e-3  # of the loss: sums in another order, over the updates of a small run


def sharding(device: str, size: str, folder: Path) -> dict[str, Any]:
    """Losses of two processes against one, and the bytes of the optimizer's state that each process keeps."""
    if device != "cpu":
        paddle = load_paddle()

        count = paddle.device.cuda.device_count()
        if count < 2:
            return {"result": "not run", "reason": f"two GPUs are needed, Paddle sees {count} "
                                                   "(CUDA_VISIBLE_DEVICES names them)"}
    steps, kinds = (8, ("stage2",)) if size == "small" else (12, ("off", "stage1", "stage2"))
    checks = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        stage_runs.first_run(device, root / "one", steps, ["pretrain"])
        whole = _state_bytes(root / "one")[0]
        for kind in kinds:
            stage_runs.run(device, root / kind, 2, steps, ["pretrain"], f"train.sharding={kind}")
            one, two = (stage_runs.losses(root / name, "pretrain") for name in ("one", kind))
            kept = [f"{value / whole:.2f}" for value in _state_bytes(root / kind)]
            checks.append({"name": f"sharding {kind}", "difference": stage_runs.apart(one, two), "allowed": ALLOWED,
                           "share of the optimizer's state of each process": kept})
    return tested(checks)


def _state_bytes(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted((folder / "pretrain").glob("optimizer_bytes_*"))]
