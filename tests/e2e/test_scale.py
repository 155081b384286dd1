# SPDX-License-Identifier: Apache-2.0
"""The number of processes changes rounding, not what is computed: four stages, 50 updates, and resumes across it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stages
from e2e_runs import CONFIGS, beitv2, finished

from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.errors import DataError

pytestmark = pytest.mark.slow
STAGES = ("tokenizer", "pretrain", "finetune", "segment")
#: stages that compute nothing from a batch as a whole
ACCUMULATING = ("pretrain", "finetune")
STEPS, RESUMED_AT, RESUMED_FOR = 50, 20, 10
SCRIPT = Path(stages.__file__)


def start(processes: int, folder: Path, batch: int, *words: str, host: tuple[str, ...] = ()) -> subprocess.Popen:
    """`stages.py` in that many processes of this host; `host`: the launcher's flags for several."""
    return launch(processes, folder, SCRIPT, folder, batch, STEPS, *words, host=host)


def launch(processes: int, folder: Path, *command: Any, host: tuple[str, ...] = ()) -> subprocess.Popen:
    """A script and its arguments in that many processes; logs go to FOLDER_logs."""
    starter = [sys.executable]
    if processes > 1 or host:
        starter += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes),
                    *(host or ("--backend", "gloo", "--log_dir", f"{folder}_logs"))]
    return subprocess.Popen([*starter, *map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})


def train(processes: int, folder: Path, batch: int, *words: str) -> Path:
    """Run `stages.py` to its end."""
    return ended(start(processes, folder, batch, *words), folder)


def ended(process: subprocess.Popen, folder: Path) -> Path:
    """The folder of a run that must end well."""
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output + logs_of(folder)
    assert not list(folder.rglob("corruption.jsonl")), "weights and moments of the processes differed"
    return folder


def logs_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(Path(f"{folder}_logs").glob("workerlog.*")))


def worker(launcher: int, rank: int) -> int:
    """The process of that rank below a launcher."""
    for children in Path(f"/proc/{launcher}/task").glob("*/children"):
        for child in children.read_text().split():
            if f"PADDLE_TRAINER_ID={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError(f"no process of rank {rank}")


def measured(folder: Path, name: str, first: int, last: int) -> np.ndarray:
    """What was logged after steps first + 1 .. last; 0 where it was not."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [line.get(name, 0.0) for line in lines if first < line["step"] <= last]
    assert len(found) == last - first
    return np.array(found)


def difference(one: Path, other: Path, first: int = 0, last: int = STEPS) -> float:
    """The largest relative difference of the losses, where both runs chose the same codes.

    A feature that is as near to one code as to another, within rounding, may get either: one of the 128 of a step, and
    that step's loss differs by 2e-5.  The perplexity of the codes tells; more than one such step fails.
    """
    left, right = (measured(run, "loss", first, last) for run in (one, other))
    same = np.equal(*(measured(run, "perplexity", first, last) for run in (one, other)))
    assert (~same).sum() <= 1
    return float((np.abs(left - right) / np.abs(left))[same].max())


def begin_at(whole: Path, run: Path, step: int) -> None:
    """A copy of a run as it was after that step."""
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("visualdl", "figures"))
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.stem.split("_")[1]) > step:
            shutil.rmtree(checkpoint)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    finished(beitv2("init-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "--set", "data.image_size=32",
                    *stages.TOKENIZER[:5], "-o", folder / "tokens", "--teacher-width", "24"))
    return folder


@pytest.fixture(scope="module")
def one_and_accumulated(folder):
    """One process with whole batches, and with four accumulated: both at once, each takes one thread."""
    runs = [folder / "one", folder / "accumulated"]
    started = [start(1, runs[0], stages.TOTAL, *STAGES), start(1, runs[1], stages.TOTAL // 4, *ACCUMULATING)]
    return [ended(process, run) for process, run in zip(started, runs)]


@pytest.fixture(scope="module")
def one(one_and_accumulated):
    return one_and_accumulated[0]


@pytest.fixture(scope="module")
def two(folder):
    return train(2, folder / "two", stages.TOTAL // 2, *STAGES)


def test_one_two_and_four_processes_and_accumulation_have_the_same_losses(folder, one_and_accumulated, two,
                                                                          record_property):
    one, accumulated = one_and_accumulated
    runs = {"2 processes": two, "4 processes": train(4, folder / "four", stages.TOTAL // 4, *STAGES),
            "4 accumulated": accumulated}
    record_property("summary", f"largest relative difference of {STEPS} losses from those of one process:")
    record_property("summary", f"{'':<12}" + "".join(f"{name:>15}" for name in runs))
    worst = {}
    for stage in STAGES:
        found = {name: difference(one / stage, run / stage) for name, run in runs.items() if (run / stage).is_dir()}
        record_property("summary", f"{stage:<12}" + "".join(f"{found[name]:>15.1e}" if name in found else f"{'-':>15}"
                                                            for name in runs))
        worst[stage] = max(found.values())
    assert max(worst.values()) < 1e-5, worst


@pytest.mark.parametrize("before", [1, 2])
def test_a_run_resumed_with_another_number_of_processes_goes_on_with_the_same_losses(folder, one, two, before):
    """Up to step 20 with one of the two, then on with the other: the losses are those of the run that went on alone."""
    whole, after = (one, 2) if before == 1 else (two, 1)
    resumed = folder / f"resumed_from_{before}"
    for stage in STAGES:
        begin_at(whole / stage, resumed / stage, RESUMED_AT)
    train(after, resumed, stages.TOTAL // after, *STAGES, f"stop_after={RESUMED_FOR}")
    for stage in STAGES:
        assert difference(whole / stage, resumed / stage, RESUMED_AT, RESUMED_AT + RESUMED_FOR) < 1e-5, stage


@pytest.mark.parametrize(("stage", "setting"), [("pretrain", "train.total_batch=4"), ("segment", "total_batch=4")])
def test_a_resume_with_another_total_batch_is_refused_with_what_to_set(one, folder, stage, setting):
    shutil.copytree(one / stage, folder / f"{stage}_refused" / stage)
    loop = stages.build(stage, folder / f"{stage}_refused", 4, STEPS, [setting])
    with pytest.raises(DataError, match="made with 8 images behind one update, now there are 4.*total_batch=8"):
        loop.run()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_job_with_a_clear_error_and_fewer_processes_go_on(one, folder, record_property):
    where = folder / "killed"
    process = start(2, where, stages.TOTAL // 2, "pretrain")
    saved = where / "pretrain/checkpoints/step_000010.pdckpt"
    deadline = time.monotonic() + 120
    while not saved.is_dir() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(worker(process.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=60)
    record_property("summary", f"a job with a killed process ended after {time.monotonic() - killed:.0f} s")
    assert process.returncode not in (0, None)
    assert "process 1 of 2 is gone" in logs_of(where), output
    assert "--resume auto" in logs_of(where)
    train(1, where, stages.TOTAL, "pretrain")
    assert difference(one / "pretrain", where / "pretrain") < 1e-5


def test_launchers_of_two_hosts_have_the_losses_of_one_with_two_processes(two, folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = folder / "hosts"
    hosts = [start(1, where, stages.TOTAL // 2, "pretrain", "stop_after=10", host=(
        "--nnodes", "2", "--master", f"127.0.0.1:{port}", "--rank", str(rank), "--log_dir", f"{where}_logs/{rank}"))
        for rank in range(2)]
    for process in hosts:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert difference(two / "pretrain", where / "pretrain", 0, 10) < 1e-6


def test_evaluations_and_a_linear_probe_give_the_same_numbers(one, folder):
    """33 images for two processes: one of them has one more."""
    read, started = [], []
    for processes in (1, 2):
        where = folder / f"measured_{processes}"
        where.mkdir()
        commands = [
            ["linear-probe", str(CONFIGS / "cls/linear_probe_digit_scenes.yml"), "--set", "model.width=24",
             "data.size=64", f"train.batch_size={8 // processes}", "train.log_every=1", "validation.size=33",
             "optim.steps=5", "optim.warmup_steps=1", "pretrained.weights=null", f"output={where / 'probe'}"],
            ["evaluate", str(one / "finetune"), "-o", str(where / "finetune")],
            ["segment", "evaluate", "--model_path", str(one / "segment"), "--save_dir", str(where / "segment"),
             "--device", "cpu", "--opts", "val_dataset.size=7"]]
        (where / "commands.json").write_text(json.dumps(commands))
        started.append(launch(processes, where, Path(__file__).with_name("commands.py"), where / "commands.json"))
        read.append(where)
    for process, where in zip(started, read):
        ended(process, where)
    alone, together = read
    lines = [[json.loads(line) for line in (where / "probe/metrics.jsonl").read_text().splitlines()] for where in read]
    for name in ("loss", "best_acc"):
        np.testing.assert_allclose([line[name] for line in lines[1]], [line[name] for line in lines[0]], rtol=1e-5)
    assert (together / "probe/linear_probe.csv").read_text() == (alone / "probe/linear_probe.csv").read_text()
    found = [json.loads((where / "finetune/evaluation.json").read_text()) for where in read]
    assert found[0].pop("loss") == pytest.approx(found[1].pop("loss"), rel=1e-5)
    assert found[0] == found[1]
    np.testing.assert_array_equal(*(np.load(where / "segment/confusion.npy") for where in read))
    assert (together / "segment/evaluation.json").read_text() == (alone / "segment/evaluation.json").read_text()


@pytest.mark.parametrize(("method", "sharding", "resumed_at"), [
    ("pretrain", "stage1", 0), ("pretrain", "stage2", 10), ("segment", "stage1", 0), ("segment", "stage2", 10)])
def test_a_divided_optimizer_makes_the_same_weights_to_the_bit_with_half_the_state(two, folder, method, sharding,
                                                                                   resumed_at):
    """Anew, and from a checkpoint made without sharding; what is saved is whole. Recomputing blocks changes nothing."""
    where = folder / sharding
    more = [f"train.sharding={sharding}", "train.recompute=true"]
    if method == "segment":  # nor do evaluations and averaged weights on the way
        more = [f"run.sharding={sharding}", "model.backbone.recompute=true", "run.do_eval=true", "val_dataset.size=3",
                f"run.use_ema={not resumed_at}"]
    if resumed_at:
        begin_at(two / method, where / method, resumed_at)
    train(2, where, stages.TOTAL // 2, method, *more, f"stop_after={20 - resumed_at}")
    ours, wanted = (CheckpointStore(run / method / "checkpoints").load(run / method / "checkpoints/step_000020.pdckpt")
                    for run in (where, two))
    for kind in ("weights", "optimizer"):
        left, right = getattr(ours, kind), getattr(wanted, kind)
        assert set(left) == set(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert difference(two / method, where / method, resumed_at, 20) == 0
    whole = int((two / method / "optimizer_bytes_0").read_text())
    parts = [int((where / method / f"optimizer_bytes_{rank}").read_text()) for rank in range(2)]
    assert sum(parts) == whole and max(parts) < 0.55 * whole


def test_gradients_of_accumulated_batches_go_to_their_owners(two, folder):
    where = train(2, folder / "stage2_accumulated", stages.TOTAL // 4, "pretrain", "train.sharding=stage2",
                  "stop_after=10")
    assert difference(two / "pretrain", where / "pretrain", 0, 10) < 1e-5
