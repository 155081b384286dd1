# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of base-size work, against this machine's matmul peak and against the peers on PyTorch.

    python benchmarks/bench_core.py                    # all cases, two rounds; `make bench` adds the growth curves
    python benchmarks/bench_core.py --rounds 1 --only quantizer --only finetune
    python benchmarks/bench_core.py --list             # names that --only takes

Every case runs in a process of its own, and the matmul peak is measured again before each of them: on a machine whose
clock or neighbours change, a share of the peak means little unless both were measured together.  The best of all
rounds counts, for the peak as for the cases.  Where no two measurements of the peak agree, the share is not judged.
Method, cases and the form of the result file: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from harness import machine, outcome, runner, show
from harness.catalogue import BFLOAT16_PEAK, CASES, PARTS, PEAK
from harness.derive import derive, floors_without_number


def chosen(only: list[str] | None) -> list[str]:
    """The cases that names and parts stand for, in the order of the catalogue."""
    return [name for name, case in CASES.items()
            if name not in (PEAK, BFLOAT16_PEAK) and (not only or name in only or case.part in only)]


def run_child(name: str) -> None:
    """Measure one case in this process and print what it found as the last line."""
    module, function = CASES[name].work.split(":")
    print(json.dumps(getattr(importlib.import_module(module), function)()))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="processes of each case (default 2)")
    parser.add_argument("--only", action="append", metavar="NAME", help="a case or a part, see --list; may be repeated")
    parser.add_argument("--list", action="store_true", help="list parts and cases and stop")
    parser.add_argument("--growth", action="store_true", help="then measure the growth curves (bench_growth.py)")
    parser.add_argument("--peers", type=Path, default=runner.PEER_PYTHON, metavar="PYTHON",
                        help="interpreter that has the peers; default .venv-peers of `make bench-peers`")
    parser.add_argument("--output", type=Path, help="result file; default benchmarks/core_[hardware]_[yyyymm].json")
    parser.add_argument("--check", action="store_true", help="end with exit code 1 where a floor is not met")
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; expected 1 or more")
    unknown = sorted(set(options.only or ()) - set(CASES) - set(PARTS))
    if unknown:
        parser.error(f"--only {unknown[0]} is not known; --list shows parts and cases")
    return options


def main() -> int:
    options = parse_options()
    if options.child:
        run_child(options.child)
        return 0
    from rich.console import Console

    console = Console()
    if options.list:
        for part in PARTS:
            console.print(f"{part}: {', '.join(chosen([part]))}", soft_wrap=True)
        return 0
    load, hardware = os.getloadavg()[0], machine.hardware()
    if load > 0.5 * hardware["cores"]:
        console.print(f"[yellow]Load is {load:.1f} on {hardware['cores']} cores: other work slows the cases down.[/]")
    names = chosen(options.only)
    try:
        peers = runner.peer_versions(options.peers)
        raw, absent = runner.measure(names, options.rounds, options.peers, peers,
                                     lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    except runner.CaseFailed as error:
        console.print(str(error), style="red", markup=False)
        return 2
    found = derive(raw)
    result = outcome.outcome(
        "core", {name: CASES[name].what for name in dict.fromkeys((PEAK, *raw, *names))}, found, rounds=options.rounds,
        load=load, steady=outcome.peak_is_steady(found[0].values), not_measured=absent, peers=peers)
    show.print_tables(console, result)
    if options.only and not options.output:
        console.print("not written: a result file holds all cases; give --output to keep a part.")
    else:
        path = options.output or outcome.path_of(result)
        outcome.write(result, path)
        show.draw_bars(result, path.with_suffix(".png"))
        console.print(f"written: {path} and its image", markup=False, soft_wrap=True)
    if options.growth:
        subprocess.run([sys.executable, str(Path(__file__).with_name("bench_growth.py"))], check=True)
    if any(reason not in (runner.NO_PEER, runner.NO_BFLOAT16) for reason in absent.values()):
        return 2
    missed = any(not one["floor"]["met"] for one in result["metrics"] if "floor" in one)
    missed = missed or bool(floors_without_number(result))
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
