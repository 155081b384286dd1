# SPDX-License-Identifier: Apache-2.0
"""Runs the readers of `parsers` over hostile inputs, each in programs of its own under a watchdog.

    python tests/hostile/fuzzing.py [--files 2000] [--only NAME] [FOLDER]

prints a row of JSON for each reader, and leaves in FOLDER row.json, their sum, and faults.jsonl, the inputs that were
not withstood; exit code 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BESIDE = [HERE, HERE.parent / "core/weights", HERE.parent / "core/weights/reading", HERE.parent / "core/inference"]
SECONDS = 10.0  # for one input
STARTING = 120.0  # for the imports and the inputs themselves


def reports_of(parser: str, files: int, seed: int = 0) -> list[dict[str, Any]]:
    """A report for each input: of the program, or that it hung or ended the program."""
    reports: list[dict[str, Any]] = []
    paths = [*map(str, BESIDE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "BEITV2_TORCH": "0"}
    with tempfile.TemporaryDirectory() as folder:
        while len(reports) < files:
            with open(Path(folder) / "stderr", "w+b") as errors, subprocess.Popen(
                    [sys.executable, str(HERE / "fuzz_program.py"), parser, folder, str(seed), str(files),
                     str(len(reports))], stdout=subprocess.PIPE, stderr=errors, env=environment) as process:
                started = _follow(process, reports)  # the name of the last input
                if len(reports) == files:
                    continue
                errors.seek(0)
                said = errors.read().decode("utf-8", "replace")[-1500:]
                if started is None:
                    raise RuntimeError(f"{parser}: the program ended before its first input: {said}")
                hung = process.returncode is None
                process.kill()
                reports.append({"number": len(reports), "name": started, "size": 0, "taken": 0, "executed": [],
                                "over": False, "result": "hung" if hung else "died", "seconds": SECONDS,
                                "detail": f"ended with {process.wait()}: {said}"})
    return reports


def _follow(process: subprocess.Popen[bytes], reports: list[dict[str, Any]]) -> str | None:
    """Collect reports until the program ends, or takes too long; the last input's name, None where there was none."""
    started, text = None, b""
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(STARTING if started is None else SECONDS + 1):
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                process.wait()
                return started
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                report = json.loads(line)
                started = report["name"]
                if "number" in report:
                    reports.append(report)
    return started


def row_of(parser: str, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the campaign's table."""
    from parsers import PARSERS

    results = Counter(report["result"] for report in reports)
    limits = PARSERS[parser]
    seconds = round(max(report["seconds"] for report in reports), 2)
    share = max(report["taken"] / (limits.constant + limits.multiple * report["size"]) for report in reports)
    return {"part": f"hostile files: {parser}", "times": len(reports), "harmed": len(faults(reports)),
            "note": {"seconds": seconds, "percent": round(100 * share)}, "read": results["read"],
            "refused by name": results["refused"], "executed": sum(bool(report["executed"]) for report in reports),
            "hung": results["hung"] + sum(report["seconds"] > SECONDS and report["result"] != "hung"
                                          for report in reports),
            "ended the program": results["died"], "other errors": results["crashed"] + results["unnamed"],
            "over the memory": sum(report["over"] for report in reports),
            "largest memory MB": round(max(report["taken"] for report in reports) / 2**20, 1),
            "allowed": f"{limits.constant / 2**20:.0f} MB + {limits.multiple} x the file"}


def faults(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The inputs that came to anything but a result or a named error within time and memory."""
    return [report for report in reports if report["result"] not in ("read", "refused") or report["executed"]
            or report["over"] or report["seconds"] > SECONDS]


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows of several readers as one: sums, and the largest of what is noted."""
    return {"part": "hostile files", "times": sum(row["times"] for row in rows),
            "harmed": sum(row["harmed"] for row in rows),
            "note": {key: max(row["note"][key] for row in rows) for key in ("seconds", "percent")}, "readers": rows}


def main() -> int:
    """The command line."""
    from parsers import PARSERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="for each reader (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--only", choices=list(PARSERS), action="append", help="this reader only; may be repeated")
    parser.add_argument("folder", nargs="?", type=Path, help="a folder to keep; default: none")
    asked = parser.parse_args()
    rows, harmful = [], []
    for reader in asked.only or PARSERS:
        reports = reports_of(reader, asked.files, asked.seed)
        rows.append(row_of(reader, reports))
        print(json.dumps(rows[-1]), flush=True)
        harmful += [{"reader": reader, **fault} for fault in faults(reports)]
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
        (asked.folder / "row.json").write_text(json.dumps(summed(rows)) + "\n", encoding="utf-8")
        (asked.folder / "faults.jsonl").write_text("".join(json.dumps(one) + "\n" for one in harmful), encoding="utf-8")
    return int(bool(harmful))


if __name__ == "__main__":
    for beside in BESIDE:
        sys.path.insert(0, str(beside))
    sys.exit(main())
