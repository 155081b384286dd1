# SPDX-License-Identifier: Apache-2.0
"""Cases in fresh processes, in turns with the matmul peak, with a forecast of what is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from harness import machine
from harness.catalogue import BFLOAT16_PEAK, CASES, PEAK, PEERS, Case

FOLDER = Path(__file__).resolve().parents[1]
PEER_PYTHON = FOLDER.parent / ".venv-peers" / "bin" / "python"
NO_PEER = "peer not installed: make bench-peers"
NO_BFLOAT16 = "this processor does not multiply bfloat16 numbers"


class CaseFailed(RuntimeError):
    """A case's process ended without a measurement; the text is its last words."""


def child(command: Sequence[str], environment: dict[str, str] | None = None) -> Any:
    """What a process prints on its last line, as JSON; CaseFailed with its last words if it fails."""
    done = subprocess.run(list(command), capture_output=True, text=True, env=environment)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise CaseFailed(f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(lines[-1])


def peer_environment() -> dict[str, str]:
    """The peers' processes see the threads that Paddle's see."""
    return {**os.environ, "OMP_NUM_THREADS": machine.settings()["OMP_NUM_THREADS"], "HF_HUB_OFFLINE": "1"}


def peer_versions(python: Path) -> dict[str, str]:
    """Version of PyTorch and of every peer installed there; {} without that environment."""
    if not python.exists():
        return {}
    return child([str(python), str(FOLDER / "peer_cases.py"), "--versions"], peer_environment())


def run_case(name: str, peer_python: Path) -> dict[str, Any]:
    """Raw measurements of one case, from a fresh process; CaseFailed if it fails."""
    case = CASES[name]
    module, function = case.work.split(":")
    if case.peer:
        return child([str(peer_python), str(FOLDER / f"{module}.py"), function], peer_environment())
    return child([sys.executable, str(FOLDER / "bench_core.py"), "--child", name])


def schedule(names: Sequence[str], rounds: int) -> list[str]:
    """The order of processes: round by round; before every case that is a share of the peak, the peak itself."""
    order: list[str] = []
    for number in range(rounds):
        for name in names:
            if number < CASES[name].rounds:
                order += [CASES[name].peak, name] if CASES[name].gflop else [name]
    return order if PEAK in order else [PEAK, *order]


def forecast(order: Sequence[str], done: int, spent: float, cases: dict[str, Case] = CASES) -> float:
    """Seconds that the rest will take: its cost, corrected by how long what is done took."""
    before, after = (sum(cases[name].cost for name in part) for part in (order[:done], order[done:]))
    return after * (spent / before if before else 1.0)


def measure(names: Sequence[str], rounds: int, peer_python: Path, installed: dict[str, str],
            tell: Callable[[str], None]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Raw measurements of every case, one entry a process, and why the others have none.

    A failing case is told and left out; the others go on.  Raises CaseFailed where the matmul peak fails.
    """
    absent = {name: NO_PEER for name in names if CASES[name].peer in PEERS and CASES[name].peer not in installed}
    if any(CASES[name].bfloat16 for name in names) and not machine.has_bfloat16():
        absent.update({name: NO_BFLOAT16 for name in names if CASES[name].bfloat16})
    order = schedule([name for name in names if name not in absent], rounds)
    raw: dict[str, list[dict[str, Any]]] = {}
    reasons, began = dict(absent), time.monotonic()
    for number, name in enumerate(order):
        if name in reasons:
            continue
        left = forecast(order, number, time.monotonic() - began)
        started = time.monotonic()
        try:
            raw.setdefault(name, []).append(run_case(name, peer_python))
            result = f"{time.monotonic() - started:5.0f} s"
        except CaseFailed as error:
            if name in (PEAK, BFLOAT16_PEAK):
                raise  # nothing could be compared with anything
            reasons[name], result = f"failed: {str(error).splitlines()[-1]}", f"FAILED: {error}"
            raw.pop(name, None)
        tell(f"{number + 1:3d} of {len(order)}, about {left / 60:4.1f} min left before it: {name}: {result}")
    return raw, reasons
