# SPDX-License-Identifier: Apache-2.0
"""Run the tests of every cell of `cells.py` where its neighbour is installed, and write the table into docs/.

    python tests/neighbours/matrix.py --paddlex .venv-paddlex/bin/python --peers .venv-peers/bin/python

`make neighbours` makes both environments first.  PADDLECLAS_HOME and PADDLESEG_HOME name clones of the repositories
whose scripts are run; a cell whose clone or environment is missing says so.  Exits with 1 unless every cell is green.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cells import CELLS, CLONES, NEIGHBOURS, Cell

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"english": ROOT / "docs/neighbours.md", "chinese": ROOT / "docs/zh/neighbours.md"}
BEGIN, END = "<!-- begin: table -->", "<!-- end: table -->"
HEADS = {"english": "| neighbour | versions | | what holds | tests | result |",
         "chinese": "| 项目 | 版本 | 方向 | 已验证的内容 | 测试 | 结果 |"}
DIRECTIONS = {"english": {"in": "in", "out": "out", "used": "used"},
              "chinese": {"in": "读入", "out": "写出", "used": "使用"}}
RESULTS = {"english": {"passed": "{} passed", "failed": "{} failed", "missing": "not run: {}"},
           "chinese": {"passed": "通过 {} 个", "failed": "失败 {} 个", "missing": "未运行：{}"}}
MADE = {"english": "Commit {}, Python {}, Paddle {}, {}.", "chinese": "提交 {}，Python {}，Paddle {}，{}。"}
CLONED = {"english": "clone {}", "chinese": "克隆 {}"}


class Case(NamedTuple):
    """A test that ran: its file as pytest names it, its name with parameters, and passed, failed or why skipped."""

    file: str
    name: str
    outcome: str


class Result(NamedTuple):
    """outcome: passed, failed or missing; what: the number of tests, or what is missing."""

    outcome: str
    what: str


def run_tests(python: str, tests: Sequence[str]) -> list[Case]:
    """Every case of these files and tests, run by this Python."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run([python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests],
                              cwd=ROOT)
        if not report.is_file():
            raise SystemExit(f"error: {python} -m pytest ended with {done.returncode} and wrote no report.")
        return cases_of(ElementTree.parse(report).getroot())


def cases_of(report: ElementTree.Element) -> list[Case]:
    """The cases of a JUnit report; what could not be collected is a failed case of its file."""
    found = []
    for case in report.iter("testcase"):
        skipped = case.find("skipped")
        outcome = "passed" if skipped is None else str(skipped.get("message"))
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        name = case.get("classname") or case.get("name") or ""
        found.append(Case(name.replace(".", "/") + ".py", case.get("name") or "", outcome))
    return found


def result_of(cell: Cell, cases: Sequence[Case], clones: Mapping[str, str] = os.environ) -> Result:
    """What the cases say of a cell: failed where one failed or a test of the cell did not run at all."""
    if cell.clone and not clones.get(CLONES[cell.neighbour]):
        return Result("missing", CLONES[cell.neighbour])
    found: list[Case] = []
    for test in cell.tests:
        of_test = [case for case in cases if belongs(case, test)]
        if not of_test:
            return Result("missing", test)
        found += of_test
    failed = [case for case in found if case.outcome == "failed"]
    skipped = [case.outcome for case in found if case.outcome not in ("passed", "failed")]
    if failed:
        return Result("failed", str(len(failed)))
    return Result("missing", skipped[0]) if skipped else Result("passed", str(len(found)))


def belongs(case: Case, test: str) -> bool:
    """Whether a case is one of `FILE`, `FILE::NAME`, and with `[WORD]` one whose parameters hold that word."""
    path, word = re.fullmatch(r"(.*?)(?:\[(\w+)\])?", test).groups()  # type: ignore[union-attr]
    file, _, name = path.partition("::")
    own, _, parameters = case.name.partition("[")
    words = re.split(r"[^\w]", parameters) if parameters else own.split("_")
    return case.file == file and name in ("", own) and (word is None or word in words)


def versions_of(python: str) -> dict[str, str]:
    """Versions of the neighbours' distributions in an environment, and of Paddle and Python."""
    names = sorted({name for names in NEIGHBOURS.values() for name in names} | {"paddlepaddle"})
    code = ("import json, sys, platform, importlib.metadata as m\nfound = {'python': platform.python_version()}\n"
            "for name in sys.argv[1:]:\n    try:\n        found[name] = m.version(name)\n"
            "    except m.PackageNotFoundError:\n        pass\nprint(json.dumps(found))")
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def commit_of(folder: str | Path) -> str:
    """The short name of a clone's commit; "-" where it is none."""
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "-"


def rows(cells: Sequence[Cell], results: Sequence[Result], versions: Mapping[str, Mapping[str, str]],
         clones: Mapping[str, str], language: str) -> list[str]:
    """The lines of the table in a language; versions: by environment; clones: commit by neighbour."""
    lines = [HEADS[language], "|---|---|---|---|---|---|"]
    for cell, result in zip(cells, results):
        known = versions.get(cell.environment, {})
        shown = ", ".join(f"{name} {known[name]}" for name in NEIGHBOURS[cell.neighbour] if name in known)
        if cell.clone:
            shown = CLONED[language].format(clones.get(cell.neighbour, "-"))
        files = dict.fromkeys(re.split(r"::|\[", test)[0] for test in cell.tests)
        tests = ", ".join(f"`{file}`" for file in files)
        what = getattr(cell, language)
        lines.append(f"| {cell.neighbour} | {shown} | {DIRECTIONS[language][cell.direction]} | {what} | {tests} | "
                     f"{RESULTS[language][result.outcome].format(result.what)} |")
    return lines


def write_table(page: Path, lines: Sequence[str]) -> None:
    """Put the lines between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"error: {page} has no {BEGIN} followed by {END}.")
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the pages, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ours", metavar="PYTHON", default=sys.executable, help="that of `make setup`; default: this")
    parser.add_argument("--paddlex", metavar="PYTHON", help="the Python of an environment with PaddleX")
    parser.add_argument("--peers", metavar="PYTHON", help="the Python of one with PyTorch, transformers and timm")
    parser.add_argument("--dry-run", action="store_true", help="run nothing, and print what would be")
    given = parser.parse_args(arguments)
    pythons = {"ours": given.ours, "paddlex": given.paddlex, "peers": given.peers}
    pythons = {name: python for name, python in pythons.items() if python}
    cases: dict[str, list[Case]] = {}
    for name, python in pythons.items():
        tests = list(dict.fromkeys(test.split("[")[0] for cell in CELLS if cell.environment == name
                                   for test in cell.tests))
        if given.dry_run:
            print(f"{name}: {python} -m pytest {' '.join(tests)}")
        else:
            cases[name] = run_tests(python, tests)
    if given.dry_run:
        return 0
    versions = {name: versions_of(python) for name, python in pythons.items()}
    results = [result_of(cell, cases.get(cell.environment, ())) for cell in CELLS]
    clones = {name: commit_of(os.environ[variable]) for name, variable in CLONES.items() if os.environ.get(variable)}
    ours = versions["ours"]
    for language, page in PAGES.items():
        made = MADE[language].format(commit_of(ROOT), ours["python"], ours.get("paddlepaddle", "-"), platform.machine())
        lines = rows(CELLS, results, versions, clones, language)
        write_table(page, [*lines, "", made])
        if language == "english":
            print("\n".join(lines))
    return 0 if all(result.outcome == "passed" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
