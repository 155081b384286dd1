# SPDX-License-Identifier: Apache-2.0
"""Where a benchmark ran: processor, versions, variables, commit."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("beitv2-core", "beitv2-cls", "beitv2-seg", "paddlepaddle", "paddlepaddle-gpu", "numpy", "onnxruntime")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {"processor": processor(), "cores": cores, "memory_gb": round(memory, 1), "system": platform.system()}


def processor() -> str:
    """The processor's name as /proc/cpuinfo gives it, or the architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 numbers."""
    return importlib.import_module("beitv2_core.runtime").has_bfloat16()


def slug(machine: dict[str, Any]) -> str:
    """The machine in a file name: `amd-epyc-7763-2c`."""
    name = re.sub(r"\((?:r|tm)\)|@.*|\bcpu\b|\bprocessor\b", " ", machine["processor"].lower())
    return f"{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}-{machine['cores']}c"


def versions() -> dict[str, str]:
    """Python and the packages that matter, as installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def settings() -> dict[str, str]:
    """The variables that decide Paddle's speed on a CPU, as the cases see them."""
    importlib.import_module("beitv2_core")  # sets those the user left open; costs no Paddle import
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def commit() -> str:
    """The commit measured, with `+changes` where the code differs from it; empty outside a repository."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return head + ("+changes" if head and git("status", "--porcelain", "--", "packages", "benchmarks/*.py",
                                                  "benchmarks/*/*.py") else "")
    except OSError:
        return ""
