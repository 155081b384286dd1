# SPDX-License-Identifier: Apache-2.0
"""Processes that disagree do not start, and each says which process has what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("disagreeing.py")
SAID = {
    "settings": "optim.lr: 0.1 (process 0); 0.2 (process 1)",
    "images": "images: 'images of one kind' (process 0); 'images of another kind' (process 1)",
    "versions": "numpy: '1.23.0' (process 0); '1.26.4' (process 1)",
    "clock 300 s late": "clock: that of process 1 is 300 s behind that of process 0",
    "step": "different steps ([20, 40], in order of their ranks)",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the two processes of one launch were told of each disagreement."""
    folder = tmp_path_factory.mktemp("disagreeing")
    done = subprocess.run([sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend",
                           "gloo", "--log_dir", str(folder / "logs"), str(SCRIPT), str(folder)],
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}, timeout=120,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    logs = "\n".join(path.read_text() for path in (folder / "logs").glob("workerlog.*"))
    assert done.returncode == 0, done.stdout + logs
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("what", SAID)
def test_a_disagreement_is_told_to_every_process_with_who_has_what(told, what):
    assert [SAID[what] in one[what] for one in told] == [True, True], told


@pytest.mark.parametrize("what", ["nothing", "workers", "clock 30 s late"])
def test_what_changes_no_number_may_differ(told, what):
    assert [one[what] for one in told] == ["agreed", "agreed"]
