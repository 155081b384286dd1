# SPDX-License-Identifier: Apache-2.0
"""What this machine is: versions, driver, GPUs."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness import machine as harness_machine

QUERY = ("name", "driver_version", "memory.total", "compute_cap")


def machine(device: str, size: str, folder: Path) -> dict[str, Any]:
    """Facts for the head of the report; not passed where a GPU is asked for and Paddle finds none."""
    importlib.import_module("beitv2_core")  # before Paddle
    paddle = importlib.import_module("paddle")

    hardware = harness_machine.hardware()
    facts: dict[str, Any] = {**harness_machine.versions(), "commit": harness_machine.commit() or "not a checkout",
                             **{key: hardware[key] for key in ("processor", "cores", "memory_gb", "system")},
                             "Paddle's CUDA": paddle.version.cuda(), "Paddle's cuDNN": paddle.version.cudnn(),
                             "Paddle's commit": paddle.version.commit}
    count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    facts["GPUs Paddle sees"] = count
    for number in range(count):
        known = paddle.device.cuda.get_device_properties(number)
        facts[f"GPU {number}"] = (f"{known.name}, compute capability {known.major}.{known.minor}, "
                                  f"{known.total_memory / 2**30:.0f} GB")
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"],
                              capture_output=True, text=True)
        facts["nvidia-smi"] = [line.strip() for line in (done.stdout or done.stderr).splitlines()]
    if device == "cpu" or count:
        return {"result": "passed", "facts": facts}
    why = "paddlepaddle without CUDA is installed" if not paddle.is_compiled_with_cuda() else "Paddle finds no GPU"
    return {"result": "failed", "facts": facts,
            "error": f"--device gpu: {why}. Without a GPU: make gpu-check DEVICE=cpu"}
