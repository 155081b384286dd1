# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes compute what one computes with the double batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from e2e_runs import PRETRAIN, ROOT, SEGMENT, TOKENIZER, assert_same_end, beitv2, final, finished
from toy import make_loop

pytestmark = pytest.mark.slow
RANK = Path(__file__).with_name("rank.py")


def launch(processes: int, folder: Path, command: list[str], *settings: str) -> subprocess.Popen:
    config, *rest = command[1:]
    starter = [sys.executable]
    if processes > 1:
        starter += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--backend", "gloo",
                    "--log_dir", str(folder) + "_logs"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*starter, str(RANK), str(folder), config, *rest[1:], *settings], text=True,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def trained(processes: int, folder: Path, command: list[str], *settings: str) -> Path:
    return ended(launch(processes, folder, command, f"train.batch_size={16 // processes}", *settings), folder)


def trained_by_one_and_two(folder: Path, command: list[str], *settings: str) -> list[Path]:
    """The same run by one process and by two, both at once."""
    started = {folder / str(count): launch(count, folder / str(count), command, f"train.batch_size={16 // count}",
                                           *settings) for count in (1, 2)}
    return [ended(process, where) for where, process in started.items()]


def ended(process: subprocess.Popen, folder: Path) -> Path:
    """The folder of a run that must end well."""
    output, _ = process.communicate(timeout=300)
    logs = "\n".join(path.read_text() for path in Path(str(folder) + "_logs").glob("workerlog.*"))
    assert process.returncode == 0, output + logs
    return folder


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


HEALTHY = "optim.steps=14"
OFFICIAL = ("optim.steps=14", "health.unquantized_steps=0", "health.revive_after=null")


@pytest.mark.parametrize("settings", [(HEALTHY,), OFFICIAL], ids=["with health measures", "official"])
def test_tokenizer_training_with_one_codebook_on_both_ranks(tmp_path, settings):
    one, two = trained_by_one_and_two(tmp_path, TOKENIZER, *settings, "train.log_every=1")
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    first, second = np.load(two / "rank_0.npz"), np.load(two / "rank_1.npz")
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    np.testing.assert_allclose(first["quantize.codebook"], final(one).weights["quantize.codebook"], atol=1e-5)


def test_pretraining_with_accumulated_batches(tokenizer_run, tmp_path):
    settings = (f"tokenizer.weights={tokenizer_run}", "optim.steps=6", "train.total_batch=32", "train.log_every=1")
    one, two = trained_by_one_and_two(tmp_path, PRETRAIN, *settings)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)


def test_a_killed_run_of_two_processes_resumes_exactly(tmp_path):
    settings = ("optim.steps=16", "train.save_every=1")
    whole = trained(2, tmp_path / "whole", TOKENIZER, *settings)
    folder = tmp_path / "killed"
    process = launch(2, folder, TOKENIZER, "train.batch_size=8", *settings)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "step_000006.pdckpt").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(["pkill", "-KILL", "-f", str(folder)], check=False)  # the launcher's workers have their own sessions
    process.communicate()
    assert 0 < final(folder).step < 16
    time.sleep(1)  # the lock of the run folder goes with the last process
    assert_same_end(whole, trained(2, folder, TOKENIZER, *settings))


def test_the_newest_checkpoint_is_hashed_by_one_of_two_processes_and_damage_is_still_found(tmp_path):
    """The newest is damaged: one process finds it and the one before, the other hashes nothing, both start from it."""
    folder = tmp_path / "run"
    make_loop(folder, steps=12).run(stop_after=10)
    damaged = folder / "checkpoints/step_000010.pdckpt/optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    process = subprocess.Popen([sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend",
                                "gloo", "--log_dir", str(folder) + "_logs", str(RANK.with_name("hashing_rank.py")),
                                str(folder)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    ended(process, folder)
    first, second = (json.loads((folder / f"hashed_{rank}.json").read_text()) for rank in (0, 1))
    assert first["step"] == second["step"] == 5
    assert second["hashed"] == []
    kinds = ("weights.safetensors", "optimizer.safetensors", "arrays.safetensors", "config.yml")
    assert sorted(first["hashed"]) == sorted([*(f"step_000005.pdckpt/{kind}" for kind in kinds),
                                              *(f"step_000010.pdckpt/{kind}" for kind in kinds[:2])])


def test_segmentation_with_accumulated_batches_and_one_evaluation(tmp_path):
    """Four images at once in both: batch norm sees them all, whoever holds them."""
    found = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        starter = [sys.executable]
        if processes > 1:
            starter += ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo", "--log_dir",
                        str(folder) + "_logs"]
        command = [*starter, str(ROOT / "train.py"), *SEGMENT[2:4], "--save_dir", str(folder), "--iters", "4",
                   "--save_interval", "4", "--do_eval", "--resume_model", "auto", "--log_iters", "1",
                   *SEGMENT[SEGMENT.index("--opts"):], "total_batch=8", f"batch_size={4 // processes}",
                   "model.dropout=0.2"]
        found[folder] = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                         env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    one, two = (ended(process, folder) for folder, process in found.items())
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    lines = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    finished(beitv2("segment", "evaluate", "--model_path", two, "--device", "cpu"))
    assert json.loads((two / "evaluation.json").read_text())["miou"] == pytest.approx(lines[-1]["miou"])
