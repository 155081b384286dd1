# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at any moment of any stage costs nothing beyond the last checkpoint."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import fault_stages as stages
import pytest
from e2e_runs import placed
from writing_commands import picture

from beitv2_core.checkpoint.store import CheckpointStore

#: shares of the kills: before the first step, while a checkpoint is written, anywhere after one, after the last step
SHARES = {"start-up": 5 / 30, "saving": 8 / 30, "training": 13 / 30, "ending": 4 / 30}


@pytest.fixture(scope="module")
def sources(warm, tmp_path_factory):
    return stages.make_sources(warm, tmp_path_factory.mktemp("sources"))


class Clock:
    """How long the parts of an uninterrupted run take here, in seconds."""

    def __init__(self, warm, folder: Path, command: list[str], steps: int):
        began = time.monotonic()
        warm.start(folder.with_suffix(".log"), command)
        wait_until(lambda: stages.steps_present(folder))
        self.start = time.monotonic() - began
        wait_until(lambda: steps in stages.steps_present(folder))
        self.step = (time.monotonic() - began - self.start) / (steps - 1)
        assert warm.wait() == 0, folder.with_suffix(".log").read_text()
        self.end = time.monotonic() - began - self.start - self.step * (steps - 1)


def wait_until(come, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(name, warm, sources, seed, kills, tmp_path, case):
    """Killed with SIGKILL again and again and resumed: 0 lost steps beyond the last checkpoint, 0 differing weights."""
    draw = random.Random(f"{seed}/{name}")
    whole, folder, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "killed.log"
    steps = 2 * kills  # each kill but those of start-up comes at least a step later
    clock = Clock(warm, whole, placed(stages.stage(name, sources, steps), whole, 1), steps)
    command = placed(stages.stage(name, sources, steps), folder, 1)
    counts = {kind: round(share * kills) for kind, share in SHARES.items() if kind != "training"}
    kinds = ["start-up"] * counts["start-up"] + ["saving"] * counts["saving"]
    kinds += ["training"] * (kills - sum(counts.values()))
    draw.shuffle(kinds)
    kinds += ["ending"] * counts["ending"]
    middle = sum(kind in ("saving", "training") for kind in kinds)
    passed, reached, done = 0, 0, 0
    while done < kills:
        kind = kinds[done] if reached < steps else "ending"  # a kill that came too late leaves a run that is complete
        number = warm.start(log, command)
        if kind == "start-up":
            time.sleep(draw.uniform(0, clock.start))
        elif kind == "ending":
            wait_until(lambda: steps in stages.steps_present(folder))
            time.sleep(draw.uniform(0, clock.start if reached == steps else 0) + draw.uniform(0, clock.end))
        else:
            target = min(max(reached + 1, round(steps * (passed + 1) / (middle + 1))), steps - 2)
            passed += 1
            wait_until(lambda target=target: max(stages.steps_present(folder), default=0) >= target)
            if kind == "saving":
                wait_until(lambda: any((folder / "checkpoints").glob(".tmp_step_*"))
                           or steps in stages.steps_present(folder))  # on a busy machine the last one may pass unseen
                time.sleep(draw.uniform(0, clock.step / 3))
            else:
                time.sleep(draw.uniform(0, 1.5 * clock.step))
        seen = max(stages.steps_present(folder), default=0)
        os.kill(number, signal.SIGKILL)
        code = warm.wait()
        if code == 0 and steps in stages.steps_present(folder):
            reached = steps
            continue  # it was finished before the signal came
        assert code == -signal.SIGKILL, log.read_text()
        done += 1
        case.inject(f"SIGKILL during {kind}")
        newest = CheckpointStore(folder / "checkpoints").latest()
        now = 0 if newest is None else CheckpointStore(folder / "checkpoints").load(newest).step
        assert now == max(stages.steps_present(folder), default=0), "the newest checkpoint is not whole"
        assert now >= seen >= reached, (now, seen, reached)
        assert len(stages.leftovers(folder)) <= 3, stages.leftovers(folder)
        reached = now
    warm.run(log, command)
    assert "An older checkpoint is used" not in log.read_text()
    stages.assert_same_run(whole, folder)
    for text in ("the newest checkpoint was whole after every kill", "no step below the last completed checkpoint",
                 "weights, optimizer, task state, metrics and result files equal the uninterrupted run's to the bit",
                 "no file left under a temporary name"):
        case.check(text)
    case.note(f"uninterrupted: start-up {clock.start:.2f} s, {1000 * clock.step:.0f} ms a step, end {clock.end:.2f} s")


@pytest.mark.parametrize("name", ["make-shards", "embed", "convert"])
def test_a_command_that_writes_killed_again_and_again_ends_as_if_nothing_had_happened(name, warm, sources, seed, kills,
                                                                                     tmp_path, case):
    """Killed with SIGKILL while it writes: nothing half under its name; started again it writes the same bytes."""
    draw, images = random.Random(f"{seed}/{name}"), tmp_path / "images"
    for number in range(24):
        picture(images / "ab"[number % 2] / f"{number:02}.png", number)

    def command(out: Path) -> list[str]:
        return {"make-shards": ["make-shards", str(images), str(out), "--per-shard", "2", "--with-classes",
                                "--overwrite"],
                "embed": ["embed", str(images), "--model", str(sources / "pretrain"), "-o", str(out / "features.npz"),
                          "--batch-size", "2", "--num-workers", "0"],
                "convert": ["convert", str(sources / "pretrain"), str(out / "model.safetensors"), "--to", "ours",
                            "--force"]}[name]

    def written(out: Path) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
                and not path.name.startswith(".") and ".parts" not in str(path) and path.suffix != ".unfinished"}

    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    began = time.monotonic()
    warm.run(log, command(whole))
    seconds, truth, done = time.monotonic() - began, written(whole), 0
    for _ in range(10 * kills):
        number = warm.start(log, command(out))
        time.sleep(draw.uniform(0, seconds))
        os.kill(number, signal.SIGKILL)
        code = warm.wait()
        for path, content in written(out).items():
            assert content == truth[path], f"{path} is half written"
        if code == 0:
            shutil.rmtree(out)
            continue
        assert code == -signal.SIGKILL, log.read_text()
        done += 1
        case.inject(f"SIGKILL during {name}")
        if done == max(kills // 3, 2):
            break
    warm.run(log, command(out))
    assert written(out) == truth and len(truth) and stages.leftovers(out) == []
    case.check("whole under its name or absent; started again: the same bytes, nothing under a temporary name")


def test_a_process_killed_before_any_renaming_leaves_nothing_behind(warm, sources, tmp_path, case):
    """SIGKILL between the writing of any file and its renaming: the next start removes what was left."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    warm.run(tmp_path / "log", placed(stages.stage("segment", sources, 6), whole, 2))
    command = placed(stages.stage("segment", sources, 6), folder, 2)
    number = 0
    while True:
        number += 1
        warm.start(tmp_path / "log", command, ["kill_at_rename", number])
        if warm.wait() == 0:
            break
        case.inject("SIGKILL before the k-th renaming, k = 1, 2, ... until a run is through")
        assert len(stages.leftovers(folder)) == 1, stages.leftovers(folder)
        if number % 3 == 0:  # else the next start finds what this one left
            warm.run(tmp_path / "log", command)
            stages.assert_same_run(whole, folder)
            shutil.rmtree(folder)
    assert number > 8
    stages.assert_same_run(whole, folder)
    case.check("at most the one file just being written is left")
    case.check("the resumed run equals the uninterrupted one, nothing under a temporary name")
