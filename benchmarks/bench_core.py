"""Speed and memory of base-size training steps and of the quantizer, against this machine's matmul peak.

    python benchmarks/bench_core.py              # about six minutes on two cores; `make bench`
    python benchmarks/bench_core.py --rounds 1   # a glance

Every case runs in a process of its own, and the matmul peak is measured again before each of them: on a machine whose
clock or neighbours change, a share of the peak means little unless both were measured together.  The best of all
rounds counts, for the peak as for the cases.  Where no two measurements of the peak agree, the share is not judged.
Method and the form of the result file: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Callable

from cases import BATCH, CASES, MATMUL_SIDE

SCHEMA = 1
AGREE = 0.05  # relative difference of the two best measurements of the peak, at most
#: of one picture: forward and backward of the official step
STEP_GFLOP = {"pretrain_step": 128.3, "finetune_step": 105.2}
PACKAGES = ("beitv2-core", "beitv2-cls", "beitv2-seg", "paddlepaddle", "paddlepaddle-gpu", "numpy")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")

#: (case, metric, unit, floor, what it is called in the table); a floor is ("min" or "max", value) or None
METRICS: tuple[tuple[str, str, str, Any, str], ...] = (
    ("matmul_peak", "gflops", "GFLOP/s", None, f"matmul {MATMUL_SIDE}^3, float32"),
    ("pretrain_step", "seconds", "s", None, f"pretraining step, base, batch {BATCH}"),
    ("pretrain_step", "images_per_second", "images/s", None, "  pictures"),
    ("pretrain_step", "share_of_peak", "", ("min", 0.60), "  share of the matmul peak"),
    ("pretrain_step", "peak_memory", "GB", ("max", 4.3), "  peak memory of the process"),
    ("finetune_step", "seconds", "s", None, f"fine-tuning step, base, batch {BATCH}"),
    ("finetune_step", "images_per_second", "images/s", None, "  pictures"),
    ("finetune_step", "share_of_peak", "", ("min", 0.60), "  share of the matmul peak"),
    ("finetune_step", "peak_memory", "GB", None, "  peak memory of the process"),
    ("quantizer", "seconds", "s", ("max", 0.5), "quantizer, 12,544 x 8192 x 32, training mode"),
    ("quantizer", "seconds_with_backward", "s", None, "  with its backward pass"),
    ("quantizer", "extra_memory", "MB", ("max", 200.0), "  extra memory"),
    ("slide", "seconds", "s", None, "UPerNet base, 512 x 683 picture, its 2 windows together"),
    ("slide", "speed_over_one_by_one", "", ("min", 1.3), "  speed, as a multiple of one window at a time"),
    ("slide", "difference", "", ("max", 1e-5), "  largest difference of the logits"),
    ("slide", "peak_memory", "GB", None, "  peak memory of the process"),
)


# -- the run ----------------------------------------------------------------------------------------------------------


def run_case(name: str) -> dict[str, Any]:
    """Raw measurements of one case, from a fresh process; RuntimeError with its last words if it fails."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"case {name} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1])


def measure(rounds: int, names: list[str], tell: Callable[[str], None]) -> dict[str, list[dict[str, Any]]]:
    """Raw measurements of every case, one entry a process; the matmul peak goes before each of the others."""
    raw: dict[str, list[dict[str, Any]]] = {"matmul_peak": []}
    for number in range(rounds):
        for name in names:
            for case in ("matmul_peak", name):
                tell(f"round {number + 1} of {rounds}: {case}")
                raw.setdefault(case, []).append(run_case(case))
    return raw


def derive(raw: dict[str, list[dict[str, Any]]]) -> dict[tuple[str, str], tuple[float, list[float]]]:
    """(case, metric) -> (the value that counts, the value of every process)."""
    flop = 2 * MATMUL_SIDE ** 3 / 1e9
    peaks = [flop / min(one["seconds"]) for one in raw["matmul_peak"]]
    found = {("matmul_peak", "gflops"): (max(peaks), peaks)}
    for case, gflop in STEP_GFLOP.items():
        if case not in raw:
            continue
        seconds = [min(one["seconds"]) for one in raw[case]]
        memory = [one["peak_bytes"] / 1e9 for one in raw[case]]
        found[case, "seconds"] = min(seconds), seconds
        found[case, "images_per_second"] = BATCH / min(seconds), [BATCH / s for s in seconds]
        # Always against the best peak of the run: a case must not look better because its neighbour was disturbed.
        shares = [BATCH * gflop / s / max(peaks) for s in seconds]
        found[case, "share_of_peak"] = max(shares), shares
        found[case, "peak_memory"] = max(memory), memory
    tables = raw.get("quantizer", [])
    if tables:
        for metric, key in (("seconds", "seconds"), ("seconds_with_backward", "with_backward")):
            values = [min(one[key]) for one in tables]
            found["quantizer", metric] = min(values), values
        extra = [one["extra_bytes"] / 1e6 for one in tables]
        found["quantizer", "extra_memory"] = max(extra), extra
    slides = raw.get("slide", [])
    if slides:
        seconds = [min(one["seconds"]) for one in slides]
        ratios = [min(one["one_by_one"]) / min(one["seconds"]) for one in slides]
        worst, memory = [one["difference"] for one in slides], [one["peak_bytes"] / 1e9 for one in slides]
        found["slide", "seconds"] = min(seconds), seconds
        found["slide", "speed_over_one_by_one"] = max(ratios), ratios
        found["slide", "difference"] = max(worst), worst
        found["slide", "peak_memory"] = max(memory), memory
    return found


def peak_is_steady(peaks: list[float]) -> bool:
    """True where a second measurement comes near the best one, so that the best is no accident of a disturbed run."""
    ordered = sorted(peaks, reverse=True)
    return len(ordered) > 1 and ordered[1] >= (1 - AGREE) * ordered[0]


def met(metric: str, value: float, floor: tuple[str, float], steady: bool) -> bool | None:
    """Whether a floor is reached; None for a share of a peak that was not measured reliably."""
    if metric == "share_of_peak" and (not steady or value > 1):
        return None
    kind, limit = floor
    return value >= limit if kind == "min" else value <= limit


def result(raw: dict[str, list[dict[str, Any]]], rounds: int, load: float) -> dict[str, Any]:
    """The result file's content: the one schema of everything in benchmarks/results."""
    found = derive(raw)
    steady = peak_is_steady(found["matmul_peak", "gflops"][1])
    metrics = []
    for case, metric, unit, floor, _ in METRICS:
        if (case, metric) not in found:
            continue
        value, values = found[case, metric]
        entry: dict[str, Any] = {"case": case, "metric": metric, "unit": unit, "value": rounded(value),
                                 "values": [rounded(one) for one in values]}
        if floor is not None:
            entry["floor"] = {floor[0]: floor[1], "met": met(metric, value, floor, steady)}
        metrics.append(entry)
    return {
        "schema": SCHEMA, "benchmark": "core",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(), "versions": versions(), "commit": commit(),
        "environment": settings(), "load_before": rounded(load), "rounds": rounds, "peak_is_steady": steady,
        "metrics": metrics,
    }


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


# -- where it ran -----------------------------------------------------------------------------------------------------


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
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return head + ("+changes" if head and git("status", "--porcelain", "--", "../packages", ".") else "")
    except OSError:
        return ""


# -- the table --------------------------------------------------------------------------------------------------------


VERDICTS = {True: "[green]met[/]", False: "[red]missed[/]", None: "[yellow]not judged[/]"}


def print_table(console: Any, outcome: dict[str, Any]) -> None:
    """What was measured beside what is asked for."""
    from rich.table import Table

    machine = outcome["hardware"]
    table = Table(title=f"{machine['processor']}, {machine['cores']} cores, best of {outcome['rounds']} rounds")
    for heading in ("what", "measured", "all rounds", "floor", ""):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right", no_wrap=True)
    labels = {(case, metric): label for case, metric, _, _, label in METRICS}
    for entry in outcome["metrics"]:
        floor = entry.get("floor")
        asked = "" if floor is None else f">= {floor['min']:g}" if "min" in floor else f"<= {floor['max']:g}"
        verdict = "" if floor is None else VERDICTS[floor["met"]]
        values = entry["values"]
        spread = f"{min(values):.3g} .. {max(values):.3g}" if len(values) > 1 else ""
        table.add_row(labels[entry["case"], entry["metric"]], f"{entry['value']:.3g} {entry['unit']}".strip(), spread,
                      asked, verdict)
    console.print(table)
    if not outcome["peak_is_steady"]:
        console.print("[yellow]The measurements of the matmul peak disagree: other work disturbed them. "
                      "Repeat on a quiet machine, or with more --rounds.[/]")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each case (default 3)")
    parser.add_argument("--only", choices=[name for name in CASES if name != "matmul_peak"], action="append",
                        help="this case only (with the matmul peak); may be repeated")
    parser.add_argument("--output", type=Path,
                        help="result file; default benchmarks/results/core_[hardware]_[yyyymm].json")
    parser.add_argument("--check", action="store_true", help="end with exit code 1 where a floor is not met")
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CASES[options.child]()))
        return 0
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; expected 1 or more")
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 112)  # a table that is piped into a file is not cut
    load = os.getloadavg()[0]
    machine = hardware()
    if load > 0.5 * machine["cores"]:
        console.print(f"[yellow]Load is {load:.1f} on {machine['cores']} cores: other work slows the cases down.[/]")
    names = list(dict.fromkeys(options.only or [name for name in CASES if name != "matmul_peak"]))
    try:
        raw = measure(options.rounds, names, console.print)
    except RuntimeError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    outcome = result(raw, options.rounds, load)
    print_table(console, outcome)
    month = outcome["date"][:7].replace("-", "")
    path = options.output or Path(__file__).parent / "results" / f"core_{slug(machine)}_{month}.json"
    if options.only and not options.output:
        console.print("not written: a result file holds all cases; give --output to keep a part.")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    missed = any(not entry["floor"]["met"] for entry in outcome["metrics"] if "floor" in entry)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
