# SPDX-License-Identifier: Apache-2.0
"""`make gpu-check`: its report, what it does when parts fail, and a small run of every part on the CPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import pytest
from gpu_parts import attention, parity, precision, report, speed, stage_runs

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
    assert math.isnan(report.largest([0.1, math.nan, 0.2])) and report.largest([0.1, 0.2]) == 0.2


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
    monkeypatch.setattr(gpu_check, "LEAST", 1.0)
    for code, result in (("raise SystemExit('broken')", "failed"), ("import time; time.sleep(60)", "out of time"),
                         ("print('no result')", "failed"),
                         ("print('{\"result\": \"passed\"}')", "passed")):
        gpu_check.HERE.write_text(code)
        assert gpu_check.run("machine", 2.0, options)["result"] == result
    assert gpu_check.run("machine", 0.5, options)["reason"] == "no time was left"


def test_without_a_gpu_the_report_says_what_to_type(tmp_path):
    done, parts = run(tmp_path, "--device", "gpu", "--only", "machine")
    assert done.returncode == 1 and parts["machine"]["result"] == "failed"
    assert "make gpu-check DEVICE=cpu" in parts["machine"]["error"]


def test_processes_of_a_part_that_hangs_end_with_it(tmp_path, monkeypatch):
    """Also those in a session of their own, as Paddle's launcher starts them."""
    options = type("Options", (), {"device": "cpu", "size": "small", "output": tmp_path})
    monkeypatch.setattr(gpu_check, "HERE", tmp_path / "child.py")
    monkeypatch.setattr(gpu_check, "LEAST", 1.0)
    gpu_check.HERE.write_text(
        "import subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(inner.pid))\ntime.sleep(60)\n")
    assert gpu_check.run("sharding", 2.0, options)["result"] == "out of time"
    inner, ends = (tmp_path / "pid").read_text(), time.monotonic() + 10
    while computes(inner) and time.monotonic() < ends:  # a signal needs its turn on a busy machine
        time.sleep(0.05)
    assert not computes(inner)


def computes(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # it ended, before or after the file was opened
        return False


@pytest.mark.parametrize(("printed", "found"), [
    ('[1]\n{"result": "passed"}\nW1127 destroyed\n', {"result": "passed"}), ("", None), ("NaN\n{}\n", None)])
def test_a_parts_result_is_found_among_other_lines(printed, found):
    assert gpu_check.measured(printed) == found


def test_a_case_of_speed_that_fails_without_words_is_an_error_and_one_without_memory_is_halved():
    tried = []

    def work(batch, amp, repeats):
        tried.append(batch)
        raise MemoryError if batch > 2 else AssertionError

    assert speed._fitting(work, "off", 8, 1) == {"batch": 2, "error": "AssertionError:"}
    assert tried == [8, 4, 2]


def test_attention_is_compared_on_the_cpu_in_float32(tmp_path, monkeypatch):
    import paddle
    monkeypatch.setenv("BEITV2_FUSED_ATTENTION", "0")  # put back at the end
    found = attention.attention("cpu", "small", tmp_path)
    if paddle.__version__.startswith("2."):
        assert found["result"] == "not run" and "no such kernels" in found["reason"]
        return
    assert found["result"] == "passed" and 0 <= found["largest_difference"] < attention.ALLOWED["float32"]
    left_out = [one["name"] for one in found["checks"] if "reason" in one]
    assert left_out == ["224 pixels, bfloat16", "224 pixels, float16"]


@pytest.mark.parametrize(("loss", "result"), [(2.05, "passed"), (2.5, "failed"), (math.nan, "failed")])
def test_a_precision_is_judged_by_the_losses_of_its_run(tmp_path, monkeypatch, loss, result):
    """Runs are stood in for: each leaves two losses, of bf16 the second is another."""
    monkeypatch.setenv("BEITV2_EMULATE_BFLOAT16", "1")  # put back at the end

    def train(device, folder, processes, steps, stages, *settings):
        losses = (4.0, loss if settings == ("train.amp=bf16",) else 2.0)
        for stage in stages:
            (folder / stage).mkdir(parents=True)
            lines = [json.dumps({"loss": one}) + "\n" for one in losses]
            (folder / stage / "metrics.jsonl").write_text("".join(lines))

    monkeypatch.setattr(stage_runs, "run", train)
    found = precision.precision("cpu", "small", tmp_path)
    (bf16, fp16) = found["checks"]
    assert found["result"] == result and bf16["last loss"] == pytest.approx(loss, nan_ok=True)
    assert fp16["reason"] == "only a GPU computes float16."


@pytest.mark.slow
def test_parts_run_their_own_processes_on_the_cpu(tmp_path):
    """The tests of parity, and the run that precision and sharding compare with; all: `make gpu-check DEVICE=cpu`."""
    done, parts = run(tmp_path, "--device", "cpu", "--only", "parity")
    assert done.returncode == 0, (tmp_path / report.PAGE).read_text(encoding="utf-8")
    assert parts["parity"]["result"] == "passed" and parts["parity"]["checks"][0]["passed"] > 0
    stage_runs.first_run("cpu", tmp_path / "one", 6, ["pretrain"], "train.amp=off")
    assert len(stage_runs.losses(tmp_path / "one", "pretrain")) == 6
