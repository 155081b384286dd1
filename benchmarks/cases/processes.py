# SPDX-License-Identifier: Apache-2.0
"""A pretraining step of eight images by two processes on half the cores each, against one process on all of them.

Run as a script this file is one of those processes: it writes its seconds, from step to step of the whole group.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.catalogue import BATCH
from harness.timing import timed

PROCESSES, STEPS = 2, 3


def worker(path: Path) -> None:
    """One process: its share of the batch, gradients averaged where there are others."""
    from cases.pretraining import build_pretraining
    from cases.setting import load_paddle, step_of

    paddle = load_paddle()
    from beitv2_core.engine import distributed

    distributed.init()
    model, optimizer, loss_of = build_pretraining(BATCH // distributed.world_size())
    network = paddle.DataParallel(model) if distributed.world_size() > 1 else model
    step = step_of(optimizer, lambda: loss_of(network))

    def together() -> None:
        step()
        distributed.barrier()

    seconds = timed(together, STEPS)
    if distributed.is_main():
        path.write_text(json.dumps(seconds), encoding="ascii")


def launched(processes: int, threads: int, folder: Path) -> list[float]:
    """Seconds of every step; RuntimeError with the workers' last words if they fail."""
    path, logs = folder / f"{processes}.json", folder / f"logs_{processes}"
    starter = [sys.executable]
    if processes > 1:
        starter += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--backend", "gloo",
                    "--log_dir", str(logs)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*starter, str(Path(__file__).resolve()), str(path)], capture_output=True, text=True,
                          env=environment)
    if done.returncode or not path.exists():
        written = "".join(file.read_text(errors="replace")[-1000:] for file in sorted(logs.glob("workerlog.*")))
        raise RuntimeError(f"{processes} processes, exit code {done.returncode}: {done.stderr[-1000:]}{written}")
    return json.loads(path.read_text(encoding="ascii"))


def two_processes() -> dict[str, Any]:
    """As many threads altogether in both; RuntimeError on a machine of one core."""
    from beitv2_core.runtime import physical_cores

    cores = physical_cores() // PROCESSES * PROCESSES
    if cores < PROCESSES:
        raise RuntimeError(f"two_processes: this machine gives 1 core; expected at least {PROCESSES}.")
    with tempfile.TemporaryDirectory() as folder:
        one = launched(1, cores, Path(folder))
        two = launched(PROCESSES, cores // PROCESSES, Path(folder))
    return {"seconds": two, "one_process": one}


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
