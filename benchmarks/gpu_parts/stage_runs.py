# SPDX-License-Identifier: Apache-2.0
"""Small runs of the training stages, by the scripts of the end-to-end tests (`tests/e2e/stages.py`), on any device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gpu_parts.report import largest, tail

STAGES = Path(__file__).resolve().parents[2] / "tests/e2e/stages.py"
TOTAL = 8  # images of an update, as stages.py has it


def first_run(device: str, folder: Path, steps: int, stages: list[str], *settings: str) -> None:
    """`run` of one process, which trains the tokenizer before: the one that pretraining beside FOLDER reads too.

    steps: more than 4, before which the tokenizer does not quantise.
    """
    (folder.parent / "tokens").symlink_to(Path(folder.name, "tokenizer"), target_is_directory=True)
    run(device, folder, 1, steps, ["tokenizer", *stages], *settings)


def run(device: str, folder: Path, processes: int, steps: int, stages: list[str], *settings: str) -> None:
    """Train stages into FOLDER/STAGE by so many processes.  RuntimeError with their last words."""
    starter = [sys.executable]
    if processes > 1:
        where = ["--backend", "gloo", "--nproc_per_node", str(processes)] if device == "cpu" else \
            ["--gpus", ",".join(map(str, range(processes)))]
        starter += ["-m", "paddle.distributed.launch", *where, "--log_dir", f"{folder}_logs"]
    done = subprocess.run([*starter, str(STAGES), str(folder), str(TOTAL // processes), str(steps), *stages, *settings],
                          capture_output=True, text=True, errors="replace",
                          env={**os.environ, "FLAGS_cudnn_deterministic": "1"})
    if done.returncode:
        logs = "".join(path.read_text(errors="replace") for path in sorted(Path(f"{folder}_logs").glob("workerlog.*")))
        raise RuntimeError(tail(done.stdout + done.stderr + logs))


def losses(folder: Path, stage: str) -> list[float]:
    """The loss of every update of a stage."""
    lines = (folder / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def apart(one: list[float], other: list[float]) -> float:
    """Largest difference of two runs' losses, as a share of the first one's."""
    if len(one) != len(other) or not one:
        raise RuntimeError(f"{len(one)} losses of one run and {len(other)} of the other; expected as many, at least 1")
    return largest(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one, other))
