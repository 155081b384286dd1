# SPDX-License-Identifier: Apache-2.0
"""Does everything run on this GPU, and how fast? One report to send us: `make gpu-check`, at most 20 minutes.

    python benchmarks/gpu_check.py                              on the first GPU; sharding on the first two
    python benchmarks/gpu_check.py --device cpu --size small    the same parts on the CPU, as far as they go there
    python benchmarks/gpu_check.py --only attention --only speed

Every part runs in a process of its own and within the time that is left, so that a crash, a hang or a full memory costs
that part alone; the report is written again after each.  It holds versions, the driver and the names of the GPUs, no
name of a user or a machine.  The code was never run on a GPU by its authors: what fails is what they want to know.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Optional

from gpu_parts import report

HERE = Path(__file__).resolve()
TESTS = HERE.parents[1] / "tests"
LEAST = 5.0  # seconds, for which a part is begun


class Part(NamedTuple):
    """work: `module:function(device, size, folder)`; most: minutes it may take, if so many are left."""

    what: str
    work: str
    most: float


#: in the order they run; the last one keeps what it has when its time is over
PARTS = {
    "machine": Part("versions, driver, GPUs", "gpu_parts.machine:machine", 1),
    "agreement": Part("models of base size give what the CPU gives", "gpu_parts.agreement:agreement", 3),
    "attention": Part("fused attention against the formula", "gpu_parts.attention:attention", 2),
    "precision": Part("training in float32, bf16 and fp16", "gpu_parts.precision:precision", 4),
    "sharding": Part("two processes, the optimizer's state divided", "gpu_parts.sharding:sharding", 4),
    "speed": Part("images/s and memory of the training steps", "gpu_parts.speed:speed", 5),
    "parity": Part("values recorded from the official code", "gpu_parts.parity:parity", 8),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="cpu: what can be tried without a GPU")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: a glance, for tests")
    parser.add_argument("--minutes", type=float, default=20.0, help="for all parts (default 20)")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="a part; may be repeated")
    parser.add_argument("--output", "-o", type=Path, default=Path("runs/gpu_check"), help="folder of the report")
    parser.add_argument("--child", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        module, function = PARTS[options.child].work.split(":")
        work = getattr(importlib.import_module(module), function)
        print(json.dumps(work(options.device, options.size, options.output)))
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    found: dict[str, dict[str, Any]] = {}
    for name, part in PARTS.items():
        if options.only and name not in options.only:
            continue
        print(f"{name}: {part.what} ...", flush=True)
        found[name] = {"what": part.what, **run(name, min(60 * part.most, ends - time.monotonic()), options)}
        print(f"  {found[name]['result']} after {found[name]['seconds']:.0f} s", flush=True)
        written = report.write(found, options.output, device=options.device, size=options.size)
    print(f"written: {written}\nPlease attach this file to an issue of the repository; read it first: it is text.")
    return int(any(one["result"] not in ("passed", "not run") for one in found.values()))


def run(name: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """A part in its own process: its result, seconds, and what it measured or the last lines of its error."""
    began = time.monotonic()
    if seconds < LEAST:
        return {"result": "not run", "reason": "no time was left", "seconds": 0.0}
    paths = [str(HERE.parent), *(str(TESTS / one) for one in ("e2e", "parity")), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in paths if one),
                   "BENCH_DEVICE": options.device, "PART_SECONDS": f"{seconds:.0f}"}
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    else:  # tests hide the GPUs where nothing is said
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0,1" if name in ("machine", "sharding") else "0")
    command = [sys.executable, str(HERE), "--child", name, "--device", options.device, "--size", options.size,
               "--output", str(options.output.resolve())]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace")
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        for one in tree(process.pid):
            with contextlib.suppress(ProcessLookupError):  # ended by itself
                os.kill(one, signal.SIGKILL)
        _, errors = process.communicate()
        return {"result": "out of time", "seconds": time.monotonic() - began, "error": report.tail(errors)}
    took = {"seconds": time.monotonic() - began}
    found = measured(output)
    if process.returncode or found is None:
        return {"result": "failed", **took, "error": report.tail(errors or output)}
    return {**took, **found}


def measured(output: str) -> Optional[dict[str, Any]]:
    """What a part printed; Paddle and CUDA may print behind it.  None where it is not there."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(ValueError):  # no JSON
            found = json.loads(line)
            if isinstance(found, dict) and "result" in found:
                return found
    return None


def tree(pid: int) -> list[int]:
    """A process and all below it: training processes that hang would compute on while other parts are measured.

    Paddle's launcher starts them in sessions of their own, so that no group of processes holds all of them.
    """
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended since
            parents[int(path.parent.name)] = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:  # grows
        found += [child for child, parent in parents.items() if parent == one]
    return found


if __name__ == "__main__":
    sys.exit(main())
