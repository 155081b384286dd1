# SPDX-License-Identifier: Apache-2.0
"""The result file: one schema for every script, `benchmarks/[what]_[hardware]_[yyyymm].json`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from harness import machine

SCHEMA = 2
FOLDER = Path(__file__).resolve().parents[1]
AGREE = 0.05  # relative difference of the two best measurements of the peak, at most
Floor = tuple[str, float]  # ("min" or "max", value)


class Metric(NamedTuple):
    """One number: `value` is the one that counts, `values` has one for each process; `at` places it on a curve."""

    case: str
    metric: str
    unit: str
    value: float
    values: Sequence[float]
    floor: Optional[Floor] = None
    at: Optional[Mapping[str, float]] = None


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def peak_is_steady(peaks: Sequence[float]) -> bool:
    """True where a second measurement comes near the best one, so that the best is no accident of a disturbed run."""
    ordered = sorted(peaks, reverse=True)
    return len(ordered) > 1 and ordered[1] >= (1 - AGREE) * ordered[0]


def met(metric: str, value: float, floor: Floor, steady: bool) -> bool | None:
    """Whether a floor is reached; None for a share of a peak that was not measured reliably."""
    if metric == "share_of_peak" and (not steady or value > 1):
        return None
    kind, limit = floor
    return value >= limit if kind == "min" else value <= limit


def entry(one: Metric, steady: bool) -> dict[str, Any]:
    """A metric as the file has it."""
    written: dict[str, Any] = {"case": one.case, "metric": one.metric, "unit": one.unit, "value": rounded(one.value),
                               "values": [rounded(value) for value in one.values]}
    if one.at is not None:
        written["at"] = dict(one.at)
    if one.floor is not None:
        kind, limit = one.floor
        written["floor"] = {kind: limit, "met": met(one.metric, one.value, one.floor, steady)}
    return written


def outcome(benchmark: str, cases: Mapping[str, str], metrics: Sequence[Metric], *, rounds: int, load: float,
            steady: bool | None = None, not_measured: Mapping[str, str] | None = None,
            peers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The result file's content.

    cases: name -> what was done; steady: whether two measurements of the matmul peak agree, None without a peak;
    not_measured: case -> reason; peers: versions of the packages compared with; load: before the run.
    """
    return {
        "schema": SCHEMA, "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": machine.hardware(), "versions": machine.versions(), "peers": dict(peers or {}),
        "commit": machine.commit(), "environment": machine.settings(), "load_before": rounded(load), "rounds": rounds,
        "peak_is_steady": steady, "cases": dict(cases), "not_measured": dict(not_measured or {}),
        "metrics": [entry(one, bool(steady)) for one in metrics],
    }


def path_of(result: Mapping[str, Any]) -> Path:
    """Where a result is kept."""
    month = result["date"][:7].replace("-", "")
    return FOLDER / f"{result['benchmark']}_{machine.slug(result['hardware'])}_{month}.json"


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write the file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
