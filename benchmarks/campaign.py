# SPDX-License-Identifier: Apache-2.0
"""The long tests of reliability: parts by name, each in processes of its own; `make campaign`.

    python benchmarks/campaign.py [PART ...] [-o runs/campaign] [--again] [--table]

A part leaves a row of JSON for the Paddle it was run with in the output folder.  What was finished at this commit is
not run again; a part that was stopped goes on with its next step.  After each part the rows stand as a table in
docs/reliability.md and docs/zh/reliability.md.

A step is a test file of tests/faults, run by pytest with `--faults-report FOLDER`, or a script, run with an empty
FOLDER as its last word, that leaves `row.json` there: {"times": faults put in, "harmed": of those that were not
withstood, "note": {"seconds": 21.5}}, the last where numbers are to stand in the table that are no counts.  Of several
steps "times" and "harmed" are added up, of a number of "note" the largest counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from harness.machine import commit, hardware

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- begin: campaign -->", "<!-- end: campaign -->"
FAULTS = "tests/faults/"
RUNS, COMMANDS = ("tokenizer", "pretrain", "finetune", "segment"), ("make-shards", "embed", "convert")
READERS = ("images", "sent images", "label maps", "COCO", "lists", "settings", "checkpoints", "weights", "shards",
           "features", "caches", "exports", "teachers", "model folders", "runs")


class Part(NamedTuple):
    """steps: words after `python`, or after `python -m pytest` where the first names a test file; floor: fewest faults
    that count; english, chinese: what is done, for the table; noted: what the numbers of "note" say, in both; needs:
    a package without which the part is left out (the environment of Paddle 2 has none that writes ONNX graphs)."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    floor: int
    english: str
    chinese: str
    noted: tuple[str, str] = ("", "")
    needs: str = ""


class NoResult(Exception):
    """A part ended without a row."""


PARTS = (
    Part("power", ((FAULTS + "test_power_loss.py", "--faults-states", "200"),
                   (FAULTS + "test_power_loss_runs.py", "--faults-states", "250")), 1000,
         "power cuts at drawn moments of all commands that write, simulated",
         "在所有写文件的命令的随机时刻断电（模拟）"),
    Part("sigkill", (*((FAULTS + "test_sigkill.py", "-k", f"again_and_again and {name}", "--faults-kills", "100")
                       for name in RUNS),
                     *((FAULTS + "test_sigkill.py", "-k", f"again_and_again and {name}", "--faults-kills", "105")
                       for name in COMMANDS)), 500,
         "SIGKILL at drawn moments of seven training and writing commands",
         "在七条训练和写文件的命令的随机时刻发送 SIGKILL"),
    Part("lost", (("tests/e2e/lost_processes.py",),), 10,
         "processes killed or stopped, hosts killed or silent, and back again; hosts are launches of one machine",
         "进程被终止或暂停，机器丢失或失联，之后又回来；各台机器是同一台机器上的多个 launch",
         ("back at work within {seconds:g} s", "{seconds:g} 秒内恢复工作")),
    Part("flips", (("tests/faults/flips.py", "--flips", "100"),), 100,
         "single bits flipped in one process's weights, averaged gradients, moments or codebook",
         "一个进程的权重、平均后的梯度、优化器状态或码本翻转一个比特",
         ("found within {steps:g} steps", "在 {steps:g} 步内发现")),
    Part("checkpoints", (("benchmarks/checkpoint_cost.py", "--size", "base", "--steps", "150", "--save-every", "50"),),
         2, "checkpoints written beside pretraining at base size, every 50 steps; failed: over 1 % of the time added",
         "base 规模的预训练每 50 步同时写一个检查点；增加的时间超过 1 % 为失败",
         ("{percent:g} % of the time added", "时间增加 {percent:g} %")),
    Part("mutated", tuple(("tests/hostile/fuzzing.py", "--files", "2000", "--only", name) for name in READERS), 30_000,
         f"files made to harm, 2,000 for each of {len(READERS)} readers",
         f"恶意构造的文件，{len(READERS)} 种读取程序各 2,000 个",
         ("at most {seconds:g} s and {percent:g} % of the allowed memory",
          "最多 {seconds:g} 秒，占允许内存的 {percent:g} %"), needs="onnx"),
    Part("requests", (("tests/hostile/hostile_requests.py", "--requests", "500"),), 500,
         "hostile requests to `beitv2 serve` beside honest ones",
         "向 `beitv2 serve` 发送恶意请求，同时有正常请求",
         ("honest ones answered within {seconds:g} s; {megabytes:g} MB more afterwards",
          "正常请求在 {seconds:g} 秒内得到回答；之后内存多 {megabytes:g} MB")),
)

HEADS = {"docs/reliability.md": ("| part | what is done | times | failed | measured | Paddle | time, cores | commit, "
                                 "date |", "Not run yet.", "Measured on {processor}."),
         "docs/zh/reliability.md": ("| 部分 | 内容 | 次数 | 失败 | 测得 | Paddle | 时间、核数 | 提交、日期 |",
                                    "尚未运行。", "测试环境：{processor}。")}


def run_step(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a step into its folder; what it found."""
    shutil.rmtree(folder, ignore_errors=True)  # what a run before left is not this one's
    folder.mkdir(parents=True)
    test = words[0].startswith("tests/") and Path(words[0]).name.startswith("test_")
    command = [sys.executable, *(("-m", "pytest", *words, "--faults-report", str(folder)) if test
                                 else (*words, str(folder)))]
    began = time.monotonic()
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
    seconds = round(time.monotonic() - began)
    if test and (folder / "faults.json").is_file():
        cases = json.loads((folder / "faults.json").read_text(encoding="utf-8"))["cases"]
        found = {"times": sum(case["injections"] for case in cases),
                 "harmed": sum(case["result"] == "failed" for case in cases)}
    elif not test and (folder / "row.json").is_file():
        found = json.loads((folder / "row.json").read_text(encoding="utf-8"))
    else:
        raise NoResult(f"{' '.join(command)} ended with {code} and left nothing; see {folder / 'log.txt'}.")
    # whatever failed: it is not withstood
    return {**found, "harmed": max(found["harmed"], int(code != 0)), "seconds": seconds}


def run_part(part: Part, out: Path, again: bool) -> dict[str, Any]:
    """Run the steps of a part that are not done at this commit; its row."""
    paddle, now = metadata.version("paddlepaddle"), commit()
    folder = out / f"{part.name}_{paddle}"
    done: list[dict[str, Any]] = []
    for number, words in enumerate(part.steps):
        kept = folder / f"step_{number}.json"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if again or known.get("words") != list(words) or known.get("commit") != now or known["harmed"]:
            print(f"{part.name}: step {number + 1} of {len(part.steps)}: {' '.join(words)}", flush=True)
            known = {**run_step(words, folder / f"step_{number}"), "words": list(words), "commit": now}
            kept.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        done.append(known)
    notes = [one.get("note", {}) for one in done]
    row = {"part": part.name, "paddle": paddle, "commit": now, "date": date.today().isoformat(),
           "machine": hardware(), **{key: sum(one[key] for one in done) for key in ("times", "harmed", "seconds")},
           "note": {key: max(note[key] for note in notes) for key in notes[0]}}
    if row["times"] < part.floor:
        raise NoResult(f"{part.name}: {row['times']} faults were put in, expected at least {part.floor}.")
    (out / f"{part.name}_{paddle}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return row


def rows_in(out: Path) -> list[dict[str, Any]]:
    """The rows that are there, in the order of the parts."""
    found = [json.loads(path.read_text(encoding="utf-8")) for part in PARTS for path in sorted(out.glob("*.json"))
             if path.name.startswith(f"{part.name}_")]
    return [row for row in found if row["part"] in {part.name for part in PARTS}]


def table(rows: Sequence[dict[str, Any]], page: str) -> str:
    """What stands between the markers of a page."""
    head, none, machine = HEADS[page]
    if not rows:
        return none
    parts, chinese = {part.name: part for part in PARTS}, "/zh/" in page
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for row in rows:
        part = parts[row["part"]]
        hours, minutes = divmod(round(row["seconds"] / 60), 60)
        what = part.chinese if chinese else part.english
        noted, cores = part.noted[chinese].format(**row["note"]), row["machine"]["cores"]
        lines.append(f"| `{part.name}` | {what} | {row['times']} | {row['harmed']} "
                     f"| {noted} | {row['paddle']} | {hours}:{minutes:02} h, {cores} | {row['commit'][:7]}"
                     f"{'+changes' if row['commit'].endswith('+changes') else ''}, {row['date']} |")
    machines = dict.fromkeys(machine.format(**row["machine"]) for row in rows)
    return "\n".join([*machines, "", *lines])


def write_tables(rows: Sequence[dict[str, Any]], root: Path = ROOT) -> None:
    """Put the table into both pages."""
    for page in HEADS:
        text = (root / page).read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise SystemExit(f"error: {page} has no {BEGIN} followed by {END}.")
        (root / page).write_text(f"{before}{BEGIN}\n{table(rows, page)}\n{END}{after}", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """The command line; 1 where a fault was not withstood."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"default: all of {', '.join(part.name for part in PARTS)}")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "runs/campaign", help="folder of rows and logs")
    parser.add_argument("--again", action="store_true", help="run what was finished at this commit too")
    parser.add_argument("--table", action="store_true", help="write the tables of the rows that are there, run nothing")
    chosen = parser.parse_args(words)
    unknown = set(chosen.parts) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(part.name for part in PARTS)}")
    harmed = 0
    for part in () if chosen.table else PARTS:
        if not chosen.parts or part.name in chosen.parts:
            if part.needs and importlib.util.find_spec(part.needs) is None:
                print(f"{part.name}: left out, because it needs {part.needs}, which is not installed here", flush=True)
                harmed += bool(chosen.parts)  # asked for by its name
                continue
            try:
                row = run_part(part, chosen.output, chosen.again)
            except NoResult as error:  # the other parts are run all the same
                print(f"error: {error}", file=sys.stderr, flush=True)
                harmed += 1
                continue
            harmed += row["harmed"]
            print(f"{part.name}: {row['times']} faults, {row['harmed']} not withstood", flush=True)
            write_tables(rows_in(chosen.output))
    if chosen.table:
        write_tables(rows_in(chosen.output))
    return int(harmed > 0)


if __name__ == "__main__":
    sys.exit(main())
