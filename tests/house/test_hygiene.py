# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind stays out of git and out of the working folder."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = "paddle.distributed.launch"
#: products of runs, tools and installations, by their whole path in git
PRODUCT = re.compile(
    r"(^|/)(log|logs|runs|output|vdl|build|dist|\.venv[^/]*|__pycache__|[^/]*\.egg-info|[^/]*\.pdckpt)/"
    r"|\.(log|pdparams|pdopt|pdmodel|pdiparams|safetensors|pth|pt|onnx|pyc|tmp|swp)$|(^|/)(workerlog|vdlrecords|core)\.|(^|/)corrupt_files(_\d+)?\.txt$|\.tar\.index\.npz$")


def listed() -> list[str]:
    """Files that git knows."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()


def test_no_product_of_a_run_is_in_git():
    assert not [name for name in listed() if PRODUCT.search(name)]


def test_no_file_in_git_is_a_symbolic_link():
    """Archives, Windows and the pages of a repository show the text of a link instead of the files behind it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    lines = subprocess.check_output(["git", "ls-files", "--stage"], cwd=ROOT, text=True).splitlines()
    assert lines
    assert not [line.partition("\t")[2] for line in lines if line.startswith("120000")]


@pytest.mark.parametrize("name, product", [
    ("log/workerlog.0", True), ("http.log", True), ("packages/beitv2-cls/output/x.txt", True), ("a/b.pdparams", True),
    ("runs/x/metrics.jsonl", True), ("corrupt_files.txt", True), ("corrupt_files_1.txt", True),
    ("shards/train-0.tar.index.npz", True), ("packages/beitv2-core/src/beitv2_core/engine/run_folder.py", False),
    ("docs/data.md", False), ("tests/core/assembly/test_batches.py", False), ("Makefile", False)])
def test_products_are_told_from_sources(name, product):
    assert bool(PRODUCT.search(name)) is product


@pytest.mark.parametrize("name", ["log/default.x.log", "tests/log/workerlog.0", "http.log", "runs/x/metrics.jsonl",
                                  "corrupt_files.txt", "corrupt_files_1.txt"])
def test_git_is_told_to_leave_them_out(name):
    listed()
    assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT).returncode == 0


def commands(text: str) -> Iterator[str]:
    """Starts of the launcher with flags, each up to its end: a line without a backslash, a backtick, a blank line."""
    for found in re.finditer(re.escape(LAUNCHER) + r"\s+-", text):
        yield re.split(r"(?<!\\)\n(?!\S* )|`|\n\n", text[found.start():].replace("\\\n", " "))[0]


def test_the_launcher_never_writes_into_the_working_folder():
    found = 0
    for name in listed():
        path = ROOT / name
        if path.suffix not in (".md", ".yml", ".yaml", ".py", ".txt") and path.name not in ("Makefile", "run"):
            continue
        text = path.read_text(encoding="utf-8")
        for command in commands(text):
            assert "--log_dir" in command, f"{name}: {command}"
            found += 1
        if path.suffix == ".py" and path != Path(__file__) and f'"{LAUNCHER}"' in text:
            for node in ast.walk(ast.parse(text)):
                words = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
                if isinstance(node, ast.FunctionDef) and LAUNCHER in words:
                    assert "--log_dir" in words, f"{name}: {node.name}"
                    found += 1
    assert found >= 10


def test_every_source_file_names_its_licence():
    """To repair: put the line on top of the file, below a `#!` line."""
    without = []
    for name in listed():
        if name.endswith(".py") and (ROOT / name).is_file():
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
            if "# SPDX-License-Identifier: Apache-2.0" not in lines[:1 + bool(lines and lines[0].startswith("#!"))]:
                without.append(name)
    assert not without
