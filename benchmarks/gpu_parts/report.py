# SPDX-License-Identifier: Apache-2.0
"""The report of `gpu_check.py`: a page to read that holds the same as JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LINES = 25  # of an error
PAGE = "gpu_check.md"


def tail(text: str) -> str:
    """The last lines of an error, the home folder written as ~."""
    return "\n".join(text.strip().splitlines()[-LINES:]).replace(str(Path.home()), "~")


def tested(checks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A part's result from its checks: {name, difference, allowed, ...}; a check with a `reason` was not run."""
    ran = [one for one in checks if "reason" not in one]
    bad = [one for one in ran if not one.get("passed", _within(one))]
    for one in ran:
        one["passed"] = one not in bad
    differences = [one["difference"] for one in ran if one.get("difference") is not None]
    return {"result": "failed" if bad else "passed" if ran else "not run", "checks": checks,
            "largest_difference": largest(differences) if differences else None, **more}


def largest(differences: Iterable[float]) -> float:
    """The largest of them, NaN where one is NaN: `max` passes over those that do not come first."""
    found = list(differences)
    return math.nan if any(map(math.isnan, found)) else max(found)


def _within(check: Mapping[str, Any]) -> bool:
    difference = check.get("difference")
    return difference is not None and math.isfinite(difference) and difference <= check["allowed"]


def write(found: Mapping[str, Mapping[str, Any]], folder: Path, **about: str) -> Path:
    """gpu_check.md in the folder; its path."""
    whole = {"written": time.strftime("%Y-%m-%d"), **about, "parts": found}
    path = folder / PAGE
    path.write_text(page(whole) + f"\n## The same as JSON\n```json\n{json.dumps(whole, indent=1)}\n```\n",
                    encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """What `write` was given, from the page it wrote."""
    text = path.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.rsplit("```json\n", 1)[1].rsplit("\n```", 1)[0])
    return found


def page(whole: Mapping[str, Any]) -> str:
    """The report without its JSON."""
    parts = whole["parts"]
    lines = [f"# Check of a {whole['device'].upper()}, {whole['size']} size, {whole['written']}", ""]
    about = parts.get("machine", {}).get("facts", {})
    if about:
        lines += ["| what | value |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in about.items()), ""]
    lines += ["| part | result | seconds | largest difference |", "|---|---|---|---|"]
    for name, part in parts.items():
        largest = part.get("largest_difference")
        lines.append(f"| {name}: {part['what']} | {part['result']} | {part['seconds']:.0f} | "
                     f"{'' if largest is None else f'{largest:.2g}'} |")
    for name, part in parts.items():
        lines += ["", *_details(name, part)] if part.get("checks") or part.get("error") or part.get("reason") else []
    return "\n".join(lines) + "\n"


def _details(name: str, part: Mapping[str, Any]) -> list[str]:
    lines = [f"## {name}"]
    if part.get("reason"):
        lines += [part["reason"]]
    checks = part.get("checks") or []
    if checks:
        columns = list(dict.fromkeys(key for check in checks for key in check))
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_cell(check.get(key)) for key in columns) + " |" for check in checks]
    if part.get("error"):
        lines += ["```", part["error"], "```"]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    text = f"{value:.4g}" if isinstance(value, float) else ", ".join(map(str, value)) if isinstance(value, list) \
        else str(value)
    return " ".join(text.replace("|", "\\|").split())
