# SPDX-License-Identifier: Apache-2.0
"""Training with `train.amp` off, bf16 and fp16: the losses stay near those of float32."""

from __future__ import annotations

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
    from beitv2_core.layers.fast.products import why_not

    reasons = {amp: why_not(amp) for amp in ALLOWED}
    steps, stages = (6, ["pretrain"]) if size == "small" else (20, ["pretrain", "finetune"])
    checks: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        stage_runs.tokenizer(device, root, steps)
        stage_runs.run(device, root / "off", 1, steps, stages, "train.amp=off")
        runs = {"float32 again": "off", **{amp: amp for amp in ALLOWED}}
        for name, amp in runs.items():
            if reasons.get(amp):
                checks.append({"name": name, "reason": reasons[amp]})
                continue
            where = root / name.replace(" ", "_")
            stage_runs.run(device, where, 1, steps, stages, f"train.amp={amp}")
            for stage in stages:
                one, other = stage_runs.losses(root / "off", stage), stage_runs.losses(where, stage)
                checks.append({"name": f"{stage}, {name}", "difference": stage_runs.apart(one, other),
                               "allowed": ALLOWED.get(amp, 1e-5), "first loss": other[0], "last loss": other[-1]})
    return tested(checks)
