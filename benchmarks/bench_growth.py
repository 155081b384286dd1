# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with batch, image, codes and tokens, each point in a process of its own.

    python benchmarks/bench_growth.py                  # all curves
    python benchmarks/bench_growth.py --only codes --output part.json

Writes benchmarks/growth_[hardware]_[yyyymm].json, an image for each curve beside it, and prints a sentence for each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from harness import outcome, runner
from harness.growth import CURVES, curve_metrics, draw_curve, sentence


def point(curve: str, place: int) -> dict[str, Any]:
    """Raw measurements of one place."""
    from cases import bricks, finetuning

    if curve == "batch":
        return finetuning.step(batch=place)
    if curve == "image":
        return finetuning.forward_backward(place)
    if curve == "codes":
        return bricks.quantizer(num_codes=place, repeats=3)
    return bricks.quantizer((place // 196, 196), repeats=3)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(CURVES), action="append", help="this curve only; may be repeated")
    parser.add_argument("--output", type=Path, help="result file; default benchmarks/growth_[hardware]_[yyyymm].json")
    parser.add_argument("--child", nargs=2, metavar=("CURVE", "PLACE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(point(options.child[0], int(options.child[1]))))
        return 0
    load = os.getloadavg()[0]
    names = [name for name in CURVES if not options.only or name in options.only]
    metrics = []
    for name in names:
        raw = {}
        for place in CURVES[name].places:
            began = time.monotonic()
            try:
                raw[place] = runner.child([sys.executable, str(Path(__file__).resolve()), "--child", name, str(place)])
            except runner.CaseFailed as error:
                print(f"{name} {place}: {error}", file=sys.stderr)
                return 2
            spent, best = time.monotonic() - began, min(raw[place]["seconds"])
            print(f"{name} {place:,}: {best:.3g} s a call, {spent:.0f} s in all", flush=True)
        metrics += curve_metrics(name, raw)
    result = outcome.outcome("growth", {name: CURVES[name].what for name in names}, metrics, rounds=1, load=load)
    for name in names:
        print(sentence(name, result["metrics"]))
    if options.only and not options.output:
        print("not written: a result file holds all curves; give --output to keep a part.")
        return 0
    path = options.output or outcome.path_of(result)
    outcome.write(result, path)
    for name in names:
        draw_curve(name, result["metrics"], path.with_name(f"{path.stem}_{name}.png"))
    print(f"written: {path} and an image for each curve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
