# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are written beside the training: the same bytes and promises, and a run never ends before its writing."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toy import ToyLoader, make_loop

from beitv2_core.checkpoint import store as store_module
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.engine import distributed, saving
from beitv2_core.engine import loop as loop_module
from beitv2_core.engine.loop import TrainingInterrupted
from beitv2_core.errors import CheckpointError, DataError, NonFiniteLossError, OutputError


def writing() -> bool:
    return any(thread.name == saving.THREAD for thread in threading.enumerate())


def slow(loop, seconds: float = 0.2, act=lambda step: None):
    """The loop's store takes so long for every checkpoint, and calls `act` in the middle of it."""
    original = loop.store.save

    def save(step, *content):
        time.sleep(seconds)
        act(step)
        return original(step, *content)

    loop.store.save = save
    return loop


def tree(folder: Path) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def with_live_state(loop):
    """The task's state is the very array that every step changes."""
    live, state = np.zeros(3), loop.task.state

    def count(*, step):
        live[:] += step

    loop.task.after_step, loop.task.state = count, lambda: {**state(), "live": live, "nested": {"list": [live]}}
    return loop


def test_what_is_written_while_the_training_goes_on_is_what_was_there_at_the_step(tmp_path, monkeypatch):
    """The writing starts two steps late, and the tree of checkpoints has the bytes of one written on the spot."""
    beside = with_live_state(make_loop(tmp_path / "beside", steps=17))
    passed = {}

    def two_steps_later(step):
        deadline = time.monotonic() + 20
        while beside.step < min(step + 2, 17) and time.monotonic() < deadline:
            time.sleep(0.001)
        passed[step] = beside.step

    slow(beside, 0, two_steps_later).run()
    assert {step for step, reached in passed.items() if reached > step} == {5, 10, 15}
    on_the_spot = with_live_state(make_loop(tmp_path / "on the spot", steps=17))
    begin = saving.CheckpointWriter.save
    monkeypatch.setattr(saving.CheckpointWriter, "save", lambda self, *content: (begin(self, *content), self.wait()))
    on_the_spot.run()
    one, other = (tree(tmp_path / name / "checkpoints") for name in ("beside", "on the spot"))
    assert len(one) == 10 and one == other
    assert not writing()


@pytest.mark.parametrize("end", ["last step", "part", "signal", "loss", "data"])
def test_a_run_that_ends_in_whatever_way_waits_for_the_writing_and_holds_its_lock_until_then(tmp_path, end):
    class Ending(ToyLoader):
        def __iter__(self):
            for batch in super().__iter__():
                if end == "data" and self.position > 11:
                    raise DataError("no more images")
                yield batch

    held = []
    loop = make_loop(tmp_path, poison=11 if end == "loss" else None, loader=Ending())
    loop.task.after_step = lambda *, step: (end, step) == ("signal", 5) and os.kill(os.getpid(), signal.SIGTERM)
    slow(loop, act=lambda step: held.append(loop.run_folder._lock is not None))
    error, last = {"signal": (TrainingInterrupted, 6), "loss": (NonFiniteLossError, 10), "data": (DataError, 10),
                   "part": (None, 11), "last step": (None, 20)}[end]
    if error is None:
        loop.run(stop_after=11 if end == "part" else None)
    else:
        with pytest.raises(error):
            loop.run()
    assert not writing() and all(held) and loop.run_folder._lock is None
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.load(store.latest()).step == last


def test_a_signal_while_a_checkpoint_is_written_saves_the_step_and_ends_once(tmp_path):
    loop = slow(make_loop(tmp_path, save_every=7), 0.1, lambda step: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(TrainingInterrupted, match="which is saved") as caught:
        loop.run()
    assert caught.value.signal_number == signal.SIGINT and f"after step {loop.step}," in str(caught.value)
    assert CheckpointStore(tmp_path / "checkpoints").steps()[-1] == loop.step
    assert not list((tmp_path / "checkpoints").glob(".tmp*"))


def test_a_process_that_must_end_because_another_one_is_gone_first_finishes_its_checkpoint(tmp_path, monkeypatch):
    class Monitor:
        def barrier(self):
            """The other processes are always there."""

    monitor, found = Monitor(), []
    monkeypatch.setattr(distributed, "_monitor", monitor)
    loop, store = make_loop(tmp_path, steps=8), CheckpointStore(tmp_path / "checkpoints")

    def gone(*, step):
        if step == 5:  # the checkpoint of step 5 is being written
            found.extend((store.steps(), monitor.before_end() or store.steps()))

    loop.task.after_step = gone
    slow(loop, 0.3).run()
    assert found == [[], [5]]


def full_from(loop, first: int):
    def full(step):
        if step >= first:
            raise CheckpointError(f"step {step} could not be written: No space left on device")

    return slow(loop, 0, full)


@pytest.mark.parametrize("first, ends_before", [(10, 15), (20, 21)])
def test_an_error_of_writing_is_raised_at_the_next_step_or_at_the_end_and_costs_no_earlier_one(tmp_path, first,
                                                                                              ends_before):
    loop = full_from(make_loop(tmp_path), first)
    loop.task.after_step = lambda *, step: time.sleep(0.05)  # the writing ends within a step
    with pytest.raises(CheckpointError, match=f"step {first} could not be written: No space left"):
        loop.run()
    assert first <= loop.step < ends_before and loop.step <= first + 2
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.steps() == [step for step in (5, 10, 15) if step < first][-2:]
    assert not (tmp_path / "summary.json").exists() and loop.run_folder._lock is None
    make_loop(tmp_path).run("auto")
    assert store.steps()[-1] == 20


def test_an_error_of_writing_is_told_beside_the_one_that_ends_the_run(tmp_path, caplog):
    loop = make_loop(tmp_path, poison=10)
    slow(full_from(loop, 10), 0.3)
    logging.getLogger("beitv2_core").propagate = True
    with pytest.raises(NonFiniteLossError):
        loop.run()
    assert "step 10 could not be written" in caplog.text


def test_a_folder_removed_while_a_checkpoint_is_written_gets_that_step_anew(tmp_path, monkeypatch):
    folder, write = tmp_path / "run", store_module.save_tensors

    def save_tensors(path, arrays):
        if "step_000010" in str(path) and not (tmp_path / "gone").exists():
            os.rename(folder, tmp_path / "gone")
        return write(path, arrays)

    monkeypatch.setattr(store_module, "save_tensors", save_tensors)
    with pytest.raises(OutputError, match="the run folder was removed.*saved there anew"):
        make_loop(folder).run()
    store = CheckpointStore(folder / "checkpoints")
    assert store.steps() == [10] and store.load(store.latest()).step == 10


def test_a_disk_slower_than_the_training_is_said_with_what_to_do_and_not_at_every_checkpoint(tmp_path, caplog,
                                                                                             monkeypatch):
    monkeypatch.setattr(saving, "TELL_AFTER_S", 0.05)
    copies, copy_of = [], loop_module.copy_of
    monkeypatch.setattr(loop_module, "copy_of", lambda *given: copies.append(writing()) or copy_of(*given))
    logging.getLogger("beitv2_core").propagate = True
    slow(make_loop(tmp_path / "slow", save_every=1), 0.03).run()
    said = [one.getMessage() for one in caplog.records if "the disk is slower" in one.getMessage()]
    assert 2 <= len(said) < 10, said  # of 20 checkpoints: each line comes at the double of the one before
    assert "Raise train.save_every (now 1), or choose an output folder on a faster disk" in said[0]
    assert len(copies) == 20 and not any(copies), "one copy in memory at a time"
    caplog.clear()
    slow(make_loop(tmp_path / "fast enough", save_every=20), 0.2).run()
    assert "the disk is slower" not in caplog.text


def test_saved_is_only_said_of_what_is_whole_on_the_disk(tmp_path, caplog):
    logging.getLogger("beitv2_core").propagate = True
    loop, early = make_loop(tmp_path), []
    steps = CheckpointStore(tmp_path / "checkpoints").steps
    slow(loop, 0.05, lambda step: early.append(f"of step {step} is saved" in caplog.text))
    loop.task.after_step = lambda *, step: early.extend(one.args[0] not in steps() for one in caplog.records
                                                        if "is saved" in one.msg and one.args[0] > 5)
    with caplog.at_level(logging.INFO, logger="beitv2_core"):
        loop.run()
    assert early and not any(early)
    assert [one.args[0] for one in caplog.records if "is saved" in one.msg] == [5, 10, 15, 20]


@pytest.mark.parametrize("rank, local_rank, hashes", [(0, 0, 4), (1, 1, 0), (2, 0, 4), (3, 1, 0)])
@pytest.mark.parametrize("resume", ["auto", "path"])
def test_the_first_process_of_each_machine_hashes_the_newest_checkpoint_and_the_others_read_it(
        tmp_path, monkeypatch, rank, local_rank, hashes, resume):
    """Two machines of two processes, seen from each of the four."""
    for step in (3, 4):
        path = CheckpointStore(tmp_path).save(step, {"w": np.full(2, step, "f4")}, {}, {}, {})
    hashed, sha256 = [], store_module.sha256_of
    monkeypatch.setattr(store_module, "sha256_of", lambda file: hashed.append(file) or sha256(file))
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", str(local_rank))
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    monkeypatch.setattr(distributed, "rank", lambda: rank)

    def all_values(own):
        values = [4, -2, 4, -2]
        assert own == values[rank]
        return values

    monkeypatch.setattr(distributed, "all_values", all_values)
    found, read = saving.newest_checkpoint(CheckpointStore(tmp_path), "auto" if resume == "auto" else path)
    assert found == path and read().step == 4 and read().weights["w"][0] == 4
    assert len(hashed) == hashes
