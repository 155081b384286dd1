# SPDX-License-Identifier: Apache-2.0
"""`make gpu-check`: its report, what it does when parts fail, and a small run of every part on the CPU."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import gpu_check
import pytest
from gpu_parts import parity, report, stage_runs

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess, dict]:
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--size", "small", "-o", str(folder),
                           *words], capture_output=True, text=True, timeout=300)
    return done, report.read(folder / report.PAGE)["parts"]


def test_a_check_fails_by_its_difference_and_one_that_was_not_run_does_not():
    good = {"name": "a", "difference": 0.1, "allowed": 0.2}
    found = report.tested([good, {"name": "b", "reason": "on GPUs only"}])
    assert found["result"] == "passed" and found["largest_difference"] == 0.1
    assert report.tested([{"name": "b", "reason": "on GPUs only"}])["result"] == "not run"
    for bad in (0.3, math.nan, math.inf):
        assert report.tested([dict(good), {"name": "c", "difference": bad, "allowed": 0.2}])["result"] == "failed"
    assert report.tested([{**good, "passed": False}])["result"] == "failed"


def test_the_report_reads_back_and_shows_every_part_and_error(tmp_path):
    parts = {"machine": {"what": "versions", "result": "passed", "seconds": 1.0, "facts": {"GPU 0": "A | B"}},
             "speed": {"what": "images/s", "result": "failed", "seconds": 2.0, "error": "out of\nmemory",
                       "checks": [{"name": "x", "images/s": 12.34567}], "largest_difference": None}}
    path = report.write(parts, tmp_path, device="gpu", size="full")
    assert report.read(path)["parts"] == parts
    text = path.read_text(encoding="utf-8")
    assert "| GPU 0 | A \\| B |" in text and "| speed: images/s | failed | 2 |" in text and "out of\nmemory" in text


def test_an_error_does_not_name_the_users_home():
    assert str(Path.home()) not in report.tail(f"File {Path.home()}/code/x.py")


def test_failures_of_parity_name_the_largest_difference_and_what_ran_counts():
    said = ("tests/parity/test_a.py::test_b[x] FAILED [ 50%]\ntests/parity/test_a.py::test_c PASSED [100%]\n"
            "________ test_b[x] ________\nE   Not equal\nE   Max absolute difference among violations: 0.25\n"
            "E   Max absolute difference: 0.125\n")
    found = parity.judged(said)
    assert (found["result"], found["largest_difference"]) == ("failed", 0.25)
    assert found["checks"][0]["passed"] == 1 and found["checks"][1]["name"].endswith("test_b[x]")
    assert parity.judged("no module named pytest")["result"] == "failed"


def test_runs_of_other_lengths_are_not_compared():
    assert stage_runs.apart([2.0, 4.0], [2.0, 5.0]) == 0.25
    with pytest.raises(RuntimeError, match="2 losses of one run and 1"):
        stage_runs.apart([1.0, 2.0], [1.0])


def test_a_part_that_fails_hangs_or_has_no_time_leaves_a_report(tmp_path, monkeypatch):
    options = type("Options", (), {"device": "cpu", "size": "small", "output": tmp_path})
    monkeypatch.setattr(gpu_check, "HERE", tmp_path / "child.py")
    for code, result in (("raise SystemExit('broken')", "failed"), ("import time; time.sleep(60)", "out of time"),
                         ("print('{\"result\": \"passed\"}')", "passed")):
        gpu_check.HERE.write_text(code)
        assert gpu_check.run("machine", 5.5, options)["result"] == result
    assert gpu_check.run("machine", 1.0, options)["reason"] == "no time was left"


def test_without_a_gpu_the_report_says_what_to_type(tmp_path):
    done, parts = run(tmp_path, "--device", "gpu", "--only", "machine")
    assert done.returncode == 1 and parts["machine"]["result"] == "failed"
    assert "make gpu-check DEVICE=cpu" in parts["machine"]["error"]


@pytest.mark.slow
def test_parts_run_on_the_cpu_as_far_as_they_go(tmp_path):
    """Not all: agreement, speed (models of base size) and sharding take another minute; `make gpu-check DEVICE=cpu`."""
    names = ("machine", "attention", "precision", "parity")
    done, parts = run(tmp_path, "--device", "cpu", *(word for name in names for word in ("--only", name)))
    assert done.returncode == 0, (tmp_path / report.PAGE).read_text(encoding="utf-8")
    import paddle
    old = paddle.__version__.startswith("2.")
    assert {name: part["result"] for name, part in parts.items()} == {
        **dict.fromkeys(names, "passed"), "attention": "not run" if old else "passed"}
    (bf16, fp16) = parts["precision"]["checks"]
    assert 0 < bf16["difference"] < 0.05 and fp16["reason"] == "only a GPU computes float16."
    assert parts["parity"]["checks"][0]["passed"] > 0
