# SPDX-License-Identifier: Apache-2.0
"""A job of `beitv2 launch` comes back by itself; an error that it would meet again ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import lost_processes
import pytest
from lost_processes import BACK_WITHIN_SECONDS, TOLERANCE, Run, difference, lose_processes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")]
STEPS = 40


def test_a_job_whose_process_is_killed_comes_back_with_the_losses_of_an_undisturbed_run(tmp_path, record_property):
    tokens = lost_processes.make_tokens(tmp_path)
    run, alone = Run(tmp_path / "run", tokens, STEPS), Run(tmp_path / "alone", tokens, STEPS)
    undisturbed = subprocess.Popen([sys.executable, "-m", "beitv2_core.cli", *alone.command], stderr=subprocess.PIPE,
                                   env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    try:
        back = lose_processes(run, [signal.SIGKILL], between=12)
        said = undisturbed.communicate(timeout=120)[1]
    finally:
        run.close()
        undisturbed.kill()
    assert undisturbed.returncode == 0, said
    record_property("summary", f"a job with a killed process was back after {back[0]:.0f} s")
    assert back[0] < BACK_WITHIN_SECONDS
    assert difference(run, alone) < TOLERANCE
    assert "restart 1 of 9" in (tmp_path / "run_host_0.log").read_text()


def test_an_error_of_the_user_ends_the_job_at_once_with_its_exit_code(tmp_path):
    run = Run(tmp_path / "run", tmp_path / "no_tokenizer", STEPS)
    try:
        run.launch()
        assert run.launches[0].wait(timeout=100) == 2, run.said()
    finally:
        run.close()
    said = (tmp_path / "run_host_0.log").read_text()
    assert "launch: start 1 " in said and "launch: start 2 " not in said
    assert "no_tokenizer" in (tmp_path / "run_logs/0/workerlog.0").read_text()
