# SPDX-License-Identifier: Apache-2.0
"""The parity tests on the device: values recorded from the official code, with the tolerances of the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_parts.report import tail

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("tests/parity/test_quantizer.py",)
LINE = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
DIFFERENCE = re.compile(r"Max absolute difference[^:]*: ([0-9.e+-]+)")


def parity(device: str, size: str, folder: Path) -> dict[str, Any]:
    """How many passed, and each that did not, with the largest difference it names.

    What ran until the time was over counts.  The tests' own tolerances are for the CPU's float32: a failure on a GPU is
    a number to look at, not yet an error.
    """
    tests = SMALL if size == "small" else ("tests/parity",)
    seconds = float(os.environ.get("PART_SECONDS", "480")) - 15
    command = [sys.executable, "-m", "pytest", "-vv", "--color=no", "-p", "no:cacheprovider", *tests]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace")
    try:
        output, _ = process.communicate(timeout=max(seconds, 5))
        over = False
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        over = True
    return {**judged(output), **({"reason": "the time was over before all tests had run"} if over else {})}


def judged(output: str) -> dict[str, Any]:
    """Result and checks from what `pytest -vv` printed."""
    ended = LINE.findall(output)
    counts = {word: sum(result == word for _, result in ended) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    if not ended:
        return {"result": "failed", "error": tail(output), "largest_difference": None}
    checks: list[dict[str, Any]] = [{"name": "tests", **{word.lower(): count for word, count in counts.items()}}]
    for test, result in ended:
        if result in ("FAILED", "ERROR"):
            section = output.partition(f"_ {test.rsplit('::', 1)[1]} _")[2][:20_000].partition("\n____")[0]
            named = [float(value) for value in DIFFERENCE.findall(section)]
            checks.append({"name": test, "difference": max(named, default=None),
                           "note": next((line[4:] for line in section.splitlines() if line.startswith("E  ")), "")})
    differences = [one["difference"] for one in checks if one.get("difference") is not None]
    return {"result": "failed" if counts["FAILED"] + counts["ERROR"] else "passed", "checks": checks,
            "largest_difference": max(differences, default=None)}
