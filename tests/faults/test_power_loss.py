# SPDX-License-Identifier: Apache-2.0
"""A power cut at any moment of any writing: what was reported is there and whole, and nothing half is taken."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest
import toy
from power_cuts import Disk, moments, replay
from recorded_writes import START, recorded
from writing_commands import all_writings

from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.files import large
from beitv2_core.files.atomic import write_text_atomically


@pytest.fixture(scope="module")
def writings(tmp_path_factory):
    return {one.name: one for one in all_writings(tmp_path_factory.mktemp("sources"))}


def test_every_writing_survives_a_power_cut_at_any_moment(writings, tmp_path, seed, states, case):
    """Disks as a power cut may leave them, for every kind of file that is written: old, new or refused, never half."""
    for name, writing in writings.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        writing.prepare(folder)
        with recorded(folder) as record:
            writing.run(folder, record.mark)
        found = replay(record.ops, states, random.Random(f"{seed}/{name}"), tmp_path, writing.check)
        assert sum(found.values()) == states
        case.inject(f"power cut, {name}", states)
        case.note(f"{name}: {len(moments(record.ops))} moments; " + ", ".join(
            f"{count} {what}" for what, count in sorted(found.items())))
    case.check("what was reported saved is found and whole; nothing half written is taken")


def test_the_checkpoints_of_these_tests_are_written_past_the_memory_as_large_ones_are(tmp_path, monkeypatch):
    past, write = [], large._write_past_memory
    monkeypatch.setattr(large, "_write_past_memory", lambda *given: past.append(len(given[1])) or write(*given))
    toy.make_loop(tmp_path / "run", steps=9, save_every=9).run()
    assert past and set(past) == {large.BUFFER}


def test_a_run_goes_on_to_the_same_bits_after_a_power_cut(tmp_path, seed, case):
    """Resumed from a disk that a power cut left, a run ends with the weights and metrics of one that was left alone."""
    from beitv2_core.engine.health import read_rows

    whole, folder = tmp_path / "whole", tmp_path / "cut"
    settings = {"steps": 9, "save_every": 2}
    toy.make_loop(whole, **settings).run()
    folder.mkdir()
    with recorded(folder) as record:
        toy.make_loop(folder / "run", **settings).run()
    draw, all_moments = random.Random(seed), moments(record.ops)
    truth = CheckpointStore(whole / "checkpoints").load(whole / "checkpoints" / "step_000009.pdckpt")
    for number in range(10):
        state = tmp_path / f"state_{number}"
        Disk(record.ops[: draw.choice(all_moments)]).after_a_cut(draw, state)
        toy.make_loop(state / "run", **settings).run("auto")
        after = CheckpointStore(state / "run" / "checkpoints").load(state / "run/checkpoints/step_000009.pdckpt")
        np.testing.assert_equal((after.weights, after.optimizer, after.state["task"]),
                                (truth.weights, truth.optimizer, truth.state["task"]))
        rows = [[{key: value for key, value in row.items() if key != "images_per_second"}
                 for row in read_rows(path / "metrics.jsonl")] for path in (whole, state / "run")]
        np.testing.assert_equal(*rows)
        case.inject("power cut during training")
        shutil.rmtree(state)
    case.check("weights, optimizer, task state and metrics equal the uninterrupted run's to the bit")


def careless(folder):
    """A file that is renamed and not synced."""
    (folder / ".temporary").write_text("new" * 3000)
    (folder / ".temporary").rename(folder / "a.txt")


def nameless(folder):
    """A file that is synced, in a folder whose names are not."""
    with open(folder / "a.txt", "w") as file:
        file.write("new" * 3000)
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.parametrize("write, harm", [(careless, "half"), (nameless, "lost"), (
    lambda folder: write_text_atomically(folder / "a.txt", "new" * 3000), None)])
def test_what_is_not_synced_is_lost_or_torn_by_the_replay_and_what_is_synced_is_not(tmp_path, write, harm, case):
    """The replay itself: it harms files that are renamed unsynced or whose folder is not, and none of our writer's."""
    folder, seen = tmp_path / "folder", set()
    folder.mkdir()
    with recorded(folder) as record:
        write(folder)
        record.mark("written")

    def check(disk, marks):
        path = disk / "a.txt"
        if not path.exists():
            seen.update(["lost"] if marks else [])
        elif path.read_text() != "new" * 3000:
            seen.add("half")
        return "seen"

    replay(record.ops, 200, random.Random(0), tmp_path, check)
    case.inject("power cut, a single file", 200)
    assert (harm in seen) if harm else not seen, seen
    assert [op.name for op in record.ops if op.kind == "mark"] == [START, "written"]
