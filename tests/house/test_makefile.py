# SPDX-License-Identifier: Apache-2.0
"""The Makefile's promises: help in order of use, plain sh, and the right Paddle wheel from the right place."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
#: stands for Python: what it is asked to do goes to a file; Paddle's GPU wheel is not available
PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
  *paddlepaddle-gpu*) exit 1;;
esac
"""


@pytest.fixture
def made(tmp_path):
    """Run make in another folder with the stand-in for Python: the finished process and the stand-in's calls."""
    (tmp_path / "packages").symlink_to(ROOT / "packages")
    python, calls = tmp_path / "python3", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def make(*words: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        plain = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        done = subprocess.run(["make", "-f", str(ROOT / "Makefile"), f"PYTHON={python}", *words], cwd=tmp_path,
                              capture_output=True, text=True, timeout=60, env={**plain, "CALLS": str(calls)})
        return done, calls.read_text().splitlines() if calls.exists() else []
    return make


def test_help_lists_every_target_in_order_of_use(made):
    shown = [line.split()[0] for line in made("help")[0].stdout.splitlines()[:-1]]
    declared = re.search(r"\.PHONY:((?:.*\\\n)*.*)", TEXT)[1].replace("\\", " ").split()
    assert shown == declared
    assert shown[:7] == ["help", "setup", "pretrain", "finetune", "segment", "real", "docs"] and shown[-1] == "clean"


def test_recipes_are_plain_sh():
    recipes = "\n".join(line for line in TEXT.splitlines() if line.startswith("\t"))
    assert "SHELL" not in TEXT and not re.search(r"\[\[|<\(|&>|\bsource\b|pipefail|\$\$\{[^}]*[/^,:]", recipes)


def test_the_cpu_wheel_comes_from_the_users_own_index(made):
    done, calls = made("setup")
    assert done.returncode == 0, done.stderr
    installs = [call for call in calls if "paddlepaddle" in call]
    assert len(installs) == 1 and "paddlepaddle==3.3.1" in installs[0] and "index-url" not in installs[0]


@pytest.mark.parametrize("words, index", [
    ([], "https://www.paddlepaddle.org.cn/packages/stable/cu126/"),
    (["CUDA=130"], "https://www.paddlepaddle.org.cn/packages/stable/cu130/"),
    (["GPU_INDEX=https://mirror.example/simple"], "https://mirror.example/simple")])
def test_the_gpu_wheel_comes_from_paddles_own_index(made, words, index):
    done, calls = made("setup", "GPU=1", *words)
    assert f"-m pip install --quiet --index-url {index} paddlepaddle-gpu==3.3.1" in calls
    said = [line for line in done.stdout.splitlines() if line.startswith("make: paddlepaddle-gpu")]
    assert done.returncode and len(said) == 1 and index in said[0]
    assert "CUDA=118, 126, 129 or 130" in said[0]
    assert "make setup GPU=1 PADDLE=3.3.1 PADDLE_WHEEL=FILE.whl" in said[0]


def test_a_gpu_wheel_that_was_fetched_elsewhere_is_taken(made):
    done, calls = made("setup", "GPU=1", "PADDLE_WHEEL=/tmp/paddle_gpu-3.3.1.whl")
    assert done.returncode == 0 and sum("/tmp/paddle_gpu-3.3.1.whl" in call for call in calls) == 2


def test_the_last_gpu_wheel_of_pypi_comes_from_there(made):
    _, calls = made("setup", "GPU=1", "PADDLE=2.6.2")
    assert "-m pip install --quiet paddlepaddle-gpu==2.6.2 numpy<2 protobuf<7 setuptools" in calls


def test_real_asks_for_the_folder_of_the_images_and_passes_everything_on(made):
    done, calls = made("real")
    assert done.returncode != 0 and "make real DATA=FOLDER" in done.stdout + done.stderr
    assert not any("real_runs" in call for call in calls)
    done, calls = made("real", "DATA=my images", "SETS=cifar10", "SEEDS=1", "OUT=there", "REAL=--dry-run")
    assert done.returncode == 0, done.stderr
    assert calls[-1] == "benchmarks/real_runs.py my images -o there --sets cifar10 --seeds 1 --dry-run"


def test_docs_builds_the_site_of_both_languages(made):
    done, calls = made("docs")
    assert done.returncode == 0, done.stderr
    assert calls[-2:] == ["-m mkdocs build --strict --quiet",
                          "-m mkdocs build --strict --quiet --config-file mkdocs.zh.yml"]
    assert "http.server --directory site" in done.stdout


def test_every_neighbour_has_its_environment_and_paddlex_keeps_its_opencv(made):
    done, calls = made("neighbours")
    assert done.returncode == 0, done.stderr
    assert {"-m venv .venv", "-m venv .venv-peers", "-m venv .venv-paddlex"} <= set(calls)
    [paddlex] = [call for call in calls if "paddlex[cv,serving]==3.7.2" in call]
    assert "paddlepaddle==3.3.1" in paddlex and "beitv2-seg" not in paddlex
    assert "-m pip install --quiet --no-deps -e packages/beitv2-seg" in calls
    assert calls[-1] == ("tests/neighbours/matrix.py --paddlex .venv-paddlex/bin/python "
                         "--peers .venv-peers/bin/python")


def test_the_halves_of_the_suite_that_ci_runs_are_the_whole_suite():
    halves = re.findall(r'make test TESTS="([^"]+)"', (ROOT / ".ci/run").read_text(encoding="utf-8"))
    folders = re.search(r"^testpaths = (\[.*\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert sorted(" ".join(halves).split()) == sorted(ast.literal_eval(folders[1]))


def test_folders_of_tests_can_be_named(made):
    assert "-m pytest tests/seg tests/cls" in made("test", "TESTS=tests/seg tests/cls")[1]


def test_the_check_of_a_gpu_installs_for_one_unless_the_cpu_is_asked_for(made):
    done, calls = made("gpu-check")
    assert done.returncode != 0 and "paddlepaddle-gpu==3.3.1" in calls[-1]  # which the stand-in does not find
    done, calls = made("gpu-check", "DEVICE=cpu")
    assert done.returncode == 0, done.stderr
    assert calls[-1] == "benchmarks/gpu_check.py --device cpu" and "paddlepaddle==3.3.1" in calls[-2]
