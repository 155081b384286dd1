# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning and evaluation by two gloo processes give what one process gives, through the installed command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CONFIG = Path(__file__).resolve().parents[2] / "configs/cls/digit_scenes.yml"
TINY = ["model.width=24", "data.size=64", "validation.size=33", "optim.steps=6", "optim.warmup_steps=1",
        "train.log_every=1", "validation.every_epochs=1", "pretrained.weights=null"]
BEITV2 = Path(sys.executable).with_name("beitv2")


def launched(processes: int, logs: Path, *arguments) -> subprocess.Popen:
    """`beitv2 ARGUMENTS` in that many processes."""
    starter = [sys.executable]
    if processes > 1:
        starter += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--backend", "gloo",
                    "--log_dir", str(logs)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*starter, str(BEITV2), *map(str, arguments)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env=environment)


def ended(*runs: tuple[subprocess.Popen, Path]) -> None:
    """Wait for processes, which must end well."""
    for process, logs in runs:
        output, _ = process.communicate(timeout=300)
        said = "\n".join(path.read_text() for path in sorted(logs.glob("workerlog.*")))
        assert process.returncode == 0, output + said


@pytest.mark.slow
@pytest.mark.skipif(not BEITV2.is_file(), reason="the beitv2 command is not installed beside this interpreter")
def test_two_processes_train_and_measure_as_one(tmp_path):
    logs = [tmp_path / f"logs{count}" for count in (1, 2)]
    ended(*((launched(count, logs[count - 1], "finetune", CONFIG, "--set", *TINY, f"output={tmp_path}/{count}",
                      f"train.batch_size={16 // count}"), logs[count - 1]) for count in (1, 2)))
    metrics = [[json.loads(line) for line in (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()]
               for count in (1, 2)]
    np.testing.assert_allclose([line["loss"] for line in metrics[1]], [line["loss"] for line in metrics[0]], rtol=1e-5)
    finals = [json.loads((tmp_path / str(count) / "summary.json").read_text())["final"] for count in (1, 2)]
    assert finals[0]["val_acc1"] == finals[1]["val_acc1"], "accuracy counts every image once"
    ended(*((launched(count, logs[count - 1], "evaluate", tmp_path / "1", "-o", tmp_path / f"eval{count}"),
             logs[count - 1]) for count in (1, 2)))
    found = [json.loads((tmp_path / f"eval{count}" / "evaluation.json").read_text()) for count in (1, 2)]
    assert found[0]["images"] == found[1]["images"] == 33
    assert found[0]["top1"] == found[1]["top1"]
    np.testing.assert_allclose(found[0]["loss"], found[1]["loss"], rtol=1e-6)
