# SPDX-License-Identifier: Apache-2.0
"""Training with `train.amp` off, bf16 and fp16: the losses stay near those of float32.

On a CPU without bfloat16 units the products of rounded numbers are computed in float32 (`BEITV2_EMULATE_BFLOAT16`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from cases.setting import load_paddle

from gpu_parts import stage_runs
from gpu_parts.report import tested

#: of the loss of float32, over the updates of a small run
ALLOWED = {"bf16": 0.05, "fp16": 0.05}


def precision(device: str, size: str, folder: Path) -> dict[str, Any]:
    """A check for each precision and stage, of small models with drop path; float32 twice shows what repeats."""
    load_paddle()
    from beitv2_core.layers.fast.products import EMULATE, why_not
    from beitv2_core.runtime import has_bfloat16

    emulated = device == "cpu" and not has_bfloat16()
    if emulated:
        os.environ[EMULATE] = "1"
    reasons = {amp: why_not(amp) for amp in ALLOWED}
    steps, stages = (8, ["pretrain"]) if size == "small" else (20, ["pretrain", "finetune"])
    checks: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        stage_runs.first_run(device, root / "off", steps, stages, "train.amp=off")
        runs = {"bf16, emulated" if emulated and amp == "bf16" else amp: amp for amp in ALLOWED}
        if size != "small":
            runs = {"float32 again": "off", **runs}
        for name, amp in runs.items():
            if reasons.get(amp):
                checks.append({"name": name, "reason": reasons[amp]})
                continue
            where = root / f"run_{len(checks)}"
            stage_runs.run(device, where, 1, steps, stages, f"train.amp={amp}")
            for stage in stages:
                one, other = stage_runs.losses(root / "off", stage), stage_runs.losses(where, stage)
                checks.append({"name": f"{stage}, {name}", "difference": stage_runs.apart(one, other),
                               "allowed": ALLOWED.get(amp, 1e-5), "first loss": other[0], "last loss": other[-1]})
    return tested(checks)
