# SPDX-License-Identifier: Apache-2.0
"""Curves: where they are measured, their exponents and their images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.outcome import Metric


class Curve(NamedTuple):
    """Work measured at several places; `memory`: what the second panel shows, in GB."""

    what: str
    axis: str
    places: tuple[int, ...]
    memory: str


CURVES: dict[str, Curve] = {
    "batch": Curve("fine-tuning step, base, 224 px", "images in a batch", (1, 2, 4, 8, 16), "peak_memory"),
    "image": Curve("fine-tuning forward and backward, base, one image", "image side, pixels",
                     (224, 384, 512, 640), "peak_memory"),
    "codes": Curve("quantizer, 12,544 tokens, training mode", "codes", (1024, 4096, 8192, 16384, 65536),
                   "extra_memory"),
    "tokens": Curve("quantizer, 8192 codes, training mode", "tokens", (1568, 3136, 6272, 12544, 25088, 50176),
                    "extra_memory"),
}


def exponent(places: Sequence[float], values: Sequence[float]) -> float:
    """The power by which values grow: slope of the least-squares line through the logarithms.

    Raises ValueError for fewer than two different places or a value that is not positive.
    """
    if len(set(places)) < 2 or len(places) != len(values) or min(*places, *values) <= 0:
        raise ValueError(f"exponent: places {list(places)}, values {list(values)}; expected at least two different "
                         "places and one positive value for each.")
    x, y = [math.log(place) for place in places], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - mean_x) ** 2 for one in x)
    return sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y)) / spread


def curve_metrics(name: str, raw: Mapping[int, Mapping[str, Any]]) -> list[Metric]:
    """Points and exponents of a curve from what was measured at every place; memory in GB."""
    curve = CURVES[name]
    places = sorted(raw)
    seconds = [min(raw[place]["seconds"]) for place in places]
    key = {"peak_memory": "peak_bytes", "extra_memory": "extra_bytes"}[curve.memory]
    memory = [max(raw[place][key], 1) / 1e9 for place in places]
    found = []
    for metric, unit, values in (("seconds", "s", seconds), (curve.memory, "GB", memory)):
        found += [Metric(name, metric, unit, value, [value], at={curve.axis: place})
                  for place, value in zip(places, values)]
        for ending, part in (("exponent", slice(None)), ("last_exponent", slice(-2, None))):
            value = exponent(places[part], values[part])
            found.append(Metric(name, f"{metric}_{ending}", "", value, [value]))
    return found


def sentence(name: str, metrics: Sequence[Mapping[str, Any]]) -> str:
    """What a curve says, in one sentence."""
    curve = CURVES[name]
    value = {one["metric"]: one["value"] for one in metrics if one["case"] == name}
    memory = "peak memory, Paddle and weights included," if curve.memory == "peak_memory" else "extra memory"
    return (f"{curve.what}: over {curve.axis} of {curve.places[0]:,} to {curve.places[-1]:,} time grows with the power "
            f"{value['seconds_exponent']:.2f} ({value['seconds_last_exponent']:.2f} between the two largest), {memory} "
            f"with {value[f'{curve.memory}_exponent']:.2f} ({value[f'{curve.memory}_last_exponent']:.2f}).")


def draw_curve(name: str, metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time and memory against the place, both axes logarithmic; dashed: the fitted power."""
    from beitv2_core.viz.canvas import ACCENT, MUTED, Canvas

    curve = CURVES[name]
    own = [one for one in metrics if one["case"] == name]
    powers = {one["metric"]: one["value"] for one in own}
    panels = (("seconds", "seconds"), (curve.memory, f"{curve.memory.split('_')[0]} memory, GB"))
    with Canvas(path, 7.5, 3.2, title=curve.what) as figure:
        for axes, (metric, label) in zip(figure.subplots(1, 2), panels):
            points = [(one["at"][curve.axis], one["value"]) for one in own if one["metric"] == metric]
            places, values = [place for place, _ in points], [value for _, value in points]
            power = powers[f"{metric}_exponent"]
            middle = math.exp(sum(math.log(v) - power * math.log(p) for p, v in points) / len(points))
            axes.loglog(places, [middle * place**power for place in places], color=MUTED, linestyle="--",
                        label=f"power {power:.2f}")
            axes.loglog(places, values, "o-", color=ACCENT)
            axes.set_xticks(places, [f"{place / 1000:.3g}k" if place >= 1000 else f"{place:g}" for place in places])
            axes.set_yticks([values[0], values[-1]], [f"{values[0]:.2g}", f"{values[-1]:.2g}"])
            axes.minorticks_off()
            axes.set_xlabel(curve.axis)
            axes.set_title(label)
            axes.grid(True)
            axes.legend()
