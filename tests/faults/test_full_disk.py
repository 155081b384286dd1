# SPDX-License-Identifier: Apache-2.0
"""A full disk ends a run with a message; what was saved stays, and with new space the run goes on to the same end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fault_stages as stages
import numpy as np
import pytest
import toy
from disks import make_room, mount, small_disk
from e2e_runs import placed

from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.engine.loop import TrainingInterrupted
from beitv2_core.errors import BEiTError, CheckpointError, OutputError

STEPS = {"steps": 12, "save_every": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    toy.make_loop(folder, **STEPS).run()
    return folder


def assert_what_is_there_is_whole(folder: Path, whole: Path) -> int:
    """Every checkpoint but damaged leftovers loads; returns the newest step, 0 for none."""
    store = CheckpointStore(folder / "checkpoints")
    for step in store.steps():
        store.load(folder / f"checkpoints/step_{step:06d}.pdckpt")
    return max(store.steps(), default=0)


def fill_and_go_on(disk: Path, whole: Path) -> str | None:
    """Run into the full disk, make room, go on to the end; the error's message, or None if all fitted."""
    folder = disk / "run"
    message = None
    try:
        toy.make_loop(folder, **STEPS).run()
    except BEiTError as error:
        message = str(error)
        assert "No space left on device" in message, message
        assert str(folder) in message and "free some space" in message or "another output" in message, message
        reached = assert_what_is_there_is_whole(folder, whole)
        make_room(disk)
        loop = toy.make_loop(folder, **STEPS)
        loop.run("auto")
        assert loop.step == 12 and reached <= 12
    np.testing.assert_equal(stages.metrics(whole), stages.metrics(folder))
    for kind in ("weights", "optimizer"):
        np.testing.assert_equal(*(getattr(CheckpointStore(path / "checkpoints").load(
            path / "checkpoints/step_000012.pdckpt"), kind) for path in (whole, folder)))
    assert stages.leftovers(folder) == []
    assert (folder / "summary.json").is_file()
    return message


@pytest.mark.parametrize("kind", ["pages", "files"])
def test_a_disk_that_fills_at_any_moment_costs_nothing(kind, whole, tmp_path, case):
    """The disk holds k pages (or files), k = 1, 2, ... until all fits: a message, whole checkpoints, the same end."""
    places: dict[str, int] = {}
    for room in range(1, 200):
        with small_disk(tmp_path / str(room), **{kind: room + (kind == "files")}) as disk:
            message = fill_and_go_on(disk, whole)
        if message is None:
            break
        place = "checkpoint" if "checkpoint could not" in message else "folder" if "cannot write" in message else "file"
        places[place] = places.get(place, 0) + 1
        case.inject(f"disk of k {kind} full")
    assert places["checkpoint"] > 5 and places["file"] > 1, places
    case.check("a message with path, reason and what to do; every checkpoint whole; the end equal to the bit")
    case.note(f"what could not be written: {places}")


@pytest.mark.parametrize("name", stages.NAMES)
def test_every_stage_meets_a_full_disk_with_a_message_and_goes_on(name, warm, tmp_path, case):
    """The commands: exit code 2, one message, and after making room the same run as on a large disk."""
    sources = stages.make_sources(warm, tmp_path)
    whole, log = tmp_path / "whole", tmp_path / "log"
    command = stages.stage(name, sources, 8)
    warm.run(log, placed(command, whole, 2))
    used = sum(-(-path.stat().st_size // 4096) for path in whole.rglob("*") if path.is_file())
    for share in (0.1, 0.45, 0.7):
        with small_disk(tmp_path / f"disk{share}", pages=max(2, int(share * used))) as disk:
            warm.start(log, placed(command, disk / "run", 2))
            code, output = warm.wait(), log.read_text()
            assert code == 2 and "No space left on device" in output and "Traceback" not in output, (code, output)
            case.inject(f"disk of {share:.0%} of the run's size")
            make_room(disk)
            warm.run(log, placed(command, disk / "run", 2))
            stages.assert_same_run(whole, disk / "run")
        log.unlink()
    case.check("exit code 2, a message without traceback, resumed to the same files")


@pytest.mark.parametrize("what", ["describe", "metrics", "figure", "summary"])
def test_files_beside_the_checkpoints_are_named_when_the_disk_is_full(what, whole, tmp_path, monkeypatch, case):
    """ENOSPC while settings, metrics, figures or the summary are written: an OutputError; the run can go on."""
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    loop = toy.make_loop(tmp_path / "run", **STEPS)
    if what == "metrics":
        loop.run_folder.log = _with_full_file(loop.run_folder)
    elif what == "figure":
        loop.on_finish = [full]
    else:
        names = {"describe": "config.yml", "summary": "summary.json"}
        original = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: full() if str(b).endswith(names[what]) else original(a, b))
    with pytest.raises(OutputError, match="run: a file of the run could not be written.*No space left.*--resume auto"):
        loop.run()
    case.inject(f"ENOSPC while writing: {what}")
    monkeypatch.undo()
    toy.make_loop(tmp_path / "run", **STEPS).run("auto")
    np.testing.assert_equal(stages.metrics(whole), stages.metrics(tmp_path / "run"))
    assert stages.leftovers(tmp_path / "run") == []
    case.check("OutputError with path, reason and advice; the folder's lock is free; resumed to the same end")


def _with_full_file(run):
    def log(step, values):
        run._metrics.close()
        run._metrics = open("/dev/full", "a", encoding="utf-8")
        type(run).log(run, step, values)
    return log


def test_a_disk_full_at_the_save_of_a_stopped_run_keeps_the_checkpoint_before(whole, tmp_path, case):
    """SIGTERM, and no room for the checkpoint it asks for: a CheckpointError, the one before is whole."""
    import signal

    with small_disk(tmp_path / "disk", pages=400) as disk:
        loop = toy.make_loop(disk / "run", **STEPS)

        def stop(*, step):
            if step == 4:
                loop.writer.wait()
                used = os.statvfs(disk)
                mount(disk, f"remount,size={(used.f_blocks - used.f_bfree + 1) * used.f_frsize}")
                os.kill(os.getpid(), signal.SIGTERM)

        loop.task.after_step = stop
        with pytest.raises(CheckpointError, match="No space left.*Earlier checkpoints are intact"):
            loop.run()
        case.inject("SIGTERM with the disk full")
        assert assert_what_is_there_is_whole(disk / "run", whole) == 4
        make_room(disk)
        again = toy.make_loop(disk / "run", **STEPS)
        again.task.after_step = lambda *, step: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None
        with pytest.raises(TrainingInterrupted):
            again.run("auto")
        toy.make_loop(disk / "run", **STEPS).run("auto")
        np.testing.assert_equal(stages.metrics(whole), stages.metrics(disk / "run"))
    case.check("the checkpoint before is whole; with room again a SIGTERM saves and the end is the same")
