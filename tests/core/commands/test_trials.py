# SPDX-License-Identifier: Apache-2.0
"""Runs that a comparison starts end with it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from beitv2_core.launching.processes import is_alive

CONFIG = Path(__file__).resolve().parents[3] / "configs/tokenizer/digit_scenes.yml"


def until(what, seconds: float):
    """What `what()` gives once it is true, or at the end."""
    ends = time.monotonic() + seconds
    while not what() and time.monotonic() < ends:
        time.sleep(0.05)
    return what()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_a_run_ends_with_the_comparison_that_started_it(tmp_path):
    run = tmp_path / "run"
    script = ("from pathlib import Path\nfrom beitv2_core.commands.trials import run_side_by_side, run_trial\n"
              f"run_side_by_side({{'run': lambda: run_trial(['train-tokenizer', {str(CONFIG)!r}, '-o', {str(run)!r}],"
              f" Path({str(run)!r}))}}, Path({str(tmp_path)!r}))")
    comparison = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert until((run / ".lock").exists, 120), "the run has not begun"
        (child,) = {int(word) for path in Path(f"/proc/{comparison.pid}/task").glob("*/children")
                    for word in path.read_text(encoding="ascii").split()}
        assert is_alive(child)
    finally:
        comparison.kill()
        comparison.wait()
    assert until(lambda: not is_alive(child), 20)
