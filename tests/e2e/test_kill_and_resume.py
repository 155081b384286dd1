# SPDX-License-Identifier: Apache-2.0
"""A run that was killed with SIGKILL, at any moment, ends as if nothing had happened."""

from __future__ import annotations

import functools
import random
import signal
import time
from pathlib import Path

import pytest
from e2e_runs import PRETRAIN, SEGMENT, TOKENIZER, assert_same_end, beitv2, final, finished, placed

pytestmark = pytest.mark.slow
STEPS = ["optim.steps=40", "train.batch_size=16", "train.keep_last=3"]


def wait_for(path: Path, pattern: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not list(path.glob(pattern)):
        assert time.monotonic() < deadline, f"{path}: no {pattern} came"
        time.sleep(0.001)


def kill(process) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module", params=["tokenizer", "pretrain", "pretrain with kept codes", "segment"])
def command(request, tokenizer_run):
    if request.param == "segment":
        return [SEGMENT[0], SEGMENT[1], "--iters", "40", *SEGMENT[2:]]
    if request.param == "tokenizer":
        return [*TOKENIZER, *STEPS]
    kept = ["tokenizer.cache.views=2"] if "codes" in request.param else []
    return [*PRETRAIN, *STEPS, f"tokenizer.weights={tokenizer_run}", "model.drop_path=0.2", *kept]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The folder of the uninterrupted run, when asked: it goes on beside the others."""
    folder = tmp_path_factory.mktemp("whole")
    process = beitv2(*placed(command, folder, 1))

    @functools.lru_cache
    def ended() -> Path:
        finished(process)
        return folder

    yield ended
    process.kill()  # where no test came to ask


def test_killed_while_training_and_while_saving(command, whole, tmp_path):
    """Three kills: after a random time of training, and twice while a checkpoint is being written."""
    folder, draw = tmp_path / "killed", random.Random(3)
    arguments = placed(command, folder, 1)
    process = beitv2(*arguments)
    wait_for(folder / "checkpoints", "step_*.pdckpt")
    time.sleep(draw.uniform(0.0, 0.3))
    kill(process)
    assert final(folder).step < 40
    for _ in range(2):
        reached = final(folder).step
        process = beitv2(*arguments)
        wait_for(folder / "checkpoints", f"step_{reached + draw.randint(1, 5):06d}.pdckpt")
        wait_for(folder / "checkpoints", ".tmp_step_*/weights.safetensors")
        kill(process)
        assert reached < final(folder).step < 40
    finished(beitv2(*arguments))
    assert_same_end(whole(), folder)
    assert not list((folder / "checkpoints").glob(".tmp*"))


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_continues(command, whole, tmp_path):
    folder = tmp_path / "damaged"
    arguments = placed(command, folder, 5)
    process = beitv2(*arguments)
    wait_for(folder / "checkpoints", "step_000015.pdckpt")
    kill(process)
    newest = sorted((folder / "checkpoints").glob("step_*.pdckpt"))[-1]
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    output = finished(beitv2(*arguments))
    assert f"{newest.name}: weights.safetensors is missing or damaged" in output
    assert_same_end(whole(), folder)
