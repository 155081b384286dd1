# SPDX-License-Identifier: Apache-2.0
"""From raw measurements to metrics; pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.catalogue import BFLOAT16_PEAK, CASES, EXTRAS, FLOORS, MATMUL_SIDE, PEAK, RATIOS, Case
from harness.outcome import Metric

Raw = Mapping[str, Sequence[dict[str, Any]]]  # case -> what each of its processes measured


def derive(raw: Raw) -> list[Metric]:
    """Every metric of the cases that were measured, with its floor; the matmul peak must be among them."""
    flop = 2 * MATMUL_SIDE**3 / 1e9
    peaks = {name: [flop / min(one["seconds"]) for one in raw[name]]
             for name in (PEAK, BFLOAT16_PEAK) if raw.get(name)}
    found = [Metric(name, "gflops", "GFLOP/s", max(values), values) for name, values in peaks.items()]
    for name, case in CASES.items():
        if name not in peaks and raw.get(name):
            # Always against the best peak of the run: a case must not look better as its neighbour was disturbed.
            found += _of_every_case(name, case, raw[name], max(peaks[case.peak]))
            found += _of_this_case(name, raw[name])
    found += _ratios({(one.case, one.metric): one for one in found})
    order = {name: number for number, name in enumerate(CASES)}
    found.sort(key=lambda one: order[one.case])
    return [one._replace(floor=FLOORS.get((one.case, one.metric))) for one in found]


def floors_without_number(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(case, metric) of the floors that a result's cases have and that it holds no number for."""
    measured = {(one["case"], one["metric"]) for one in result["metrics"]}
    return [floor for floor in FLOORS if floor[0] in result["cases"] and floor not in measured]


def _of_every_case(name: str, case: Case, raw: Sequence[dict[str, Any]], peak: float) -> list[Metric]:
    found = []
    if all("seconds" in one for one in raw):
        seconds = [min(one["seconds"]) for one in raw]
        found.append(Metric(name, "seconds", "s", min(seconds), seconds))
        if case.images:
            speeds = [case.images / one for one in seconds]
            found.append(Metric(name, "images_per_second", "images/s", max(speeds), speeds))
        if case.gflop:
            speeds = [case.images * case.gflop / one for one in seconds]
            found.append(Metric(name, "gflops", "GFLOP/s", max(speeds), speeds))
            found.append(Metric(name, "share_of_peak", "", max(speeds) / peak, [one / peak for one in speeds]))
    if all("peak_bytes" in one for one in raw):
        memory = [one["peak_bytes"] / 1e9 for one in raw]
        found.append(Metric(name, "peak_memory", "GB", max(memory), memory))
    return found


def _of_this_case(name: str, raw: Sequence[dict[str, Any]]) -> list[Metric]:
    found = []
    for extra in EXTRAS.get(name, ()):
        values = [extra.value(one) for one in raw]
        found.append(Metric(name, extra.metric, extra.unit, extra.counts(values), values))
    if name == "start_up":  # one a command: too many for the table, kept in the file
        for command in raw[0]["help"]:
            values = [one["help"][command] for one in raw]
            found.append(Metric(name, f"help of {command}", "s", min(values), values))
    return found


def _ratios(found: Mapping[tuple[str, str], Metric]) -> list[Metric]:
    made = []
    for ratio in RATIOS:
        one, other = found.get((ratio.case, ratio.of)), found.get((ratio.over, ratio.of))
        if one is not None and other is not None:
            values = [a / b for a, b in zip(one.values, other.values)]  # both of the same round
            made.append(Metric(ratio.case, ratio.metric, "", one.value / other.value, values))
    return made
