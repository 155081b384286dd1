# SPDX-License-Identifier: Apache-2.0
"""Core on every Python and Paddle there is: installs, runs its tests, writes the table of docs/installing.md.

    python pythons.py                                        every pair, the smoke tests (`make pythons`)
    python pythons.py --core full --pythons python3.13 --paddles 3.3.1
    python pythons.py --table                                only write the table again

Each pair has an environment of its own with what `beitv2-core[cpu,test]` declares.  The smoke tests are files that
stand for the rooms of core; full: all of tests/core that is fast.  Results are kept in tests/house/pythons.json, one
for each pair and extent, so that a pair that is run again takes the place of its old result.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("pythons.json")
PAGES = (ROOT / "docs/installing.md", ROOT / "docs/zh/installing.md")
BEGIN, END = "<!-- written by make pythons -->\n", "<!-- end -->\n"
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
PADDLES = ("2.6.2", "3.2.2", "3.3.1")
#: settings and command line, layers with what Paddle and oneDNN must have, models, a teacher, training, checkpoints,
#: data, weights, export
SMOKE = tuple(f"tests/core/{one}.py" for one in (
    "test_cli", "test_entry_points", "config/test_load", "layers/test_block", "layers/fast/test_onednn",
    "layers/fast/test_fused_attention", "models/test_backbone", "models/test_vqkd", "models/test_skip_unread",
    "teachers/test_hog", "engine/test_loop", "engine/test_tasks", "engine/test_private_api", "checkpoint/test_store",
    "data/test_loader", "weights/test_writers", "test_exported_model"))
NO_WHEEL = "no wheel"


def found_pythons() -> list[str]:
    """An interpreter of each version from 3.9 to 3.13 that is here: on the path, or one of pyenv that is not on it."""
    found = []
    for version in PYTHONS:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        for candidate in (f"python{version}", *map(str, pyenv)):
            if shutil.which(candidate) and not subprocess.run([candidate, "-c", "import ensurepip"],
                                                              capture_output=True).returncode:
                found.append(candidate)
                break
    return found


def tried(python: str, paddle: str, core: str) -> dict[str, Any]:
    """What happened with one pair: versions, the tests' last line, seconds, or what could not be installed."""
    if shutil.which(python) is None:
        raise SystemExit(f"error: {python}: there is no such interpreter. Give others with PYTHONS=, or none for all "
                         "that are found.")
    version = subprocess.check_output([python, "-c", "import platform; print(platform.python_version())"], text=True)
    result: dict[str, Any] = {"python": version.strip(), "paddle": paddle, "core": core, "commit": commit()}
    pins = ["numpy<2"] if paddle.startswith("2.") else []  # Paddle 2 was built against numpy 1
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "bin/python"
        subprocess.run([python, "-m", "venv", folder], check=True)
        done = subprocess.run([own, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary", "paddlepaddle",
                               f"paddlepaddle=={paddle}", f"{ROOT / 'packages/beitv2-core'}[cpu,test]", *pins],
                              capture_output=True, text=True)
        if done.returncode:
            return {**result, **refused(done.stderr)}
        versions = subprocess.check_output([own, "-c", "import numpy, typer; print(numpy.__version__)"], text=True)
        began = time.monotonic()
        tests = SMOKE if core == "smoke" else ["tests/core"]
        done = subprocess.run([own, "-m", "pytest", "-m", "not slow and not peers", "-p", "no:cacheprovider", *tests],
                              cwd=ROOT, capture_output=True, text=True)
    seconds = round(time.monotonic() - began)
    print(done.stdout[-3000:])
    return {**result, "numpy": versions.strip(), "seconds": seconds, **ended(done.stdout, done.returncode)}


def refused(said: str) -> dict[str, str]:
    """What pip's words mean: there is no wheel of that version, or something else went wrong.

    Every Python of the table has wheels of some Paddle: where pip knows of none, it did not reach an index.
    """
    if "No matching distribution found for paddlepaddle" in said and "(from versions: none)" not in said:
        return {"result": NO_WHEEL, "note": ""}
    return {"result": "not installed", "note": (said.strip().splitlines() or ["pip said nothing"])[-1]}


def ended(output: str, code: int) -> dict[str, Any]:
    """passed, failed and skipped tests from what pytest printed; the names of those that failed."""
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output[-400:])}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return {"result": "passed" if code == 0 and counts.get("passed") else "failed", **counts,
            **({"note": ", ".join(failed[:5]) or output.strip()[-200:]} if code else {})}


def commit() -> str:
    """The commit of this checkout, short; empty outside of git."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def keep(result: dict[str, Any]) -> None:
    """Put a result among those kept, in place of the same pair's and extent's."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        return minor(one), tuple(map(int, one["paddle"].split("."))), one["core"]

    kept = sorted([one for one in kept if key(one) != key(result)] + [result], key=key)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def minor(result: dict[str, Any]) -> tuple[int, int]:
    major, second = result["python"].split(".")[:2]
    return int(major), int(second)


def table(results: list[dict[str, Any]], chinese: bool = False) -> str:
    """Markdown: a row for each promised Python, a column for each Paddle, and below it the commits that were tried."""
    words = {"passed": "通过", "failed": "失败", NO_WHEEL: "没有 wheel", "not installed": "无法安装"} if chinese else {}
    lines = ["| Python | " + " | ".join(f"Paddle {paddle}" for paddle in PADDLES) + " |",
             "|---|" + "---|" * len(PADDLES)]
    for version in PYTHONS:
        row = [one for one in results if minor(one) == tuple(map(int, version.split(".")))]
        cells = [_cell([one for one in row if one["paddle"] == paddle], words, chinese) for paddle in PADDLES]
        lines.append(f"| {row[0]['python'] if row else version} | " + " | ".join(cells) + " |")
    commits = ", ".join(sorted({one["commit"] for one in results}))
    said = f"提交：{commits}。" if chinese else f"Commit {commits}."
    return "\n".join([*lines, "", said]) + "\n"


def _cell(found: list[dict[str, Any]], words: dict[str, str], chinese: bool) -> str:
    texts = []
    for one in found:
        text = words.get(one["result"], one["result"])
        if one["result"] in ("passed", "failed"):
            extent = {"smoke": "冒烟测试" if chinese else "smoke", "full": "全部快速测试" if chinese else "all fast"}
            bad = f", {one['failed']} {words.get('failed', 'failed')}" if one.get("failed") else ""
            text = f"{text}: {one.get('passed', 0)} ({extent[one['core']]}{bad}, numpy {one['numpy']})"
        texts.append(text)
    return "; ".join(texts) or ("尚未尝试" if chinese else "not tried yet")


def write_tables() -> None:
    """Put the table into the pages, between the two marks."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        page.write_text(before + BEGIN + table(results, "zh" in page.parts) + END + rest.split(END, 1)[1],
                        encoding="utf-8")


def main() -> int:
    os.environ.pop("PYTHONPATH", None)  # what is installed is tried, not this folder
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pythons", nargs="*", help="interpreters (default: those of 3.9 to 3.13 that are found)")
    parser.add_argument("--paddles", nargs="*", default=PADDLES)
    parser.add_argument("--core", choices=["smoke", "full"], default="smoke")
    parser.add_argument("--table", action="store_true", help="only write the table of the results that are kept")
    options = parser.parse_args()
    bad = 0
    for python in [] if options.table else options.pythons or found_pythons():
        for paddle in options.paddles or PADDLES:
            result = tried(python, paddle, options.core)
            print({key: value for key, value in result.items() if value != ""}, flush=True)
            bad += result["result"] in ("failed", "not installed")
            keep(result)
    write_tables()
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
