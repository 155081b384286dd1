# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from beitv2_core.checkpoint import store as store_module
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.errors import CheckpointError

WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1.5], dtype=np.float32)}
OPTIMIZER = {"moment1_0/a.weight": np.full((2, 3), 0.25, dtype=np.float32)}
STATE = {"loader": {"epoch": 3, "batch": 7}, "task": {"counts": np.arange(4), "parts": [np.ones(2), np.zeros(1)]},
         "note": "x", "empty": {}, "scale": 0.1}
CONFIG = {"kind": "tokenizer", "seed": 3}


def save(folder, step=5, **options):
    checkpoints = CheckpointStore(folder, **options)
    return checkpoints, checkpoints.save(step, WEIGHTS, OPTIMIZER, STATE, CONFIG)


def test_everything_comes_back_as_it_was_saved(tmp_path):
    checkpoints, path = save(tmp_path)
    back = checkpoints.load(path)
    assert back.step == 5 and back.config == CONFIG
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(back.weights[name], array)
    np.testing.assert_array_equal(back.optimizer["moment1_0/a.weight"], OPTIMIZER["moment1_0/a.weight"])
    assert back.state["loader"] == STATE["loader"] and back.state["scale"] == 0.1 and back.state["empty"] == {}
    np.testing.assert_array_equal(back.state["task"]["counts"], np.arange(4))
    np.testing.assert_array_equal(back.state["task"]["parts"][0], np.ones(2))


def test_transposed_arrays_keep_their_values(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    checkpoints = CheckpointStore(tmp_path)
    path = checkpoints.save(1, {"w": array}, {}, {}, {})
    np.testing.assert_array_equal(checkpoints.load(path).weights["w"], array)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "arrays.safetensors", "config.yml",
                                  "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, name, damage, caplog):
    checkpoints, older = save(tmp_path, 5)
    newer = checkpoints.save(6, WEIGHTS, OPTIMIZER, STATE, CONFIG)
    content = bytearray((newer / name).read_bytes())
    if damage == "gone":
        (newer / name).unlink()
    elif damage == "cut":
        (newer / name).write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0x55
        (newer / name).write_bytes(content)
    assert checkpoints.latest() == older
    assert str(newer) in caplog.text
    with pytest.raises(CheckpointError, match="step_000006"):
        checkpoints.load(newer)


@pytest.mark.parametrize("moment", ["safetensors", "sync", "rename"])
def test_a_failed_write_names_the_path_and_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, moment):
    checkpoints, older = save(tmp_path, 5)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    target = {"safetensors": (store_module, "save_tensors"), "sync": (os, "fsync"), "rename": (os, "rename")}[moment]
    monkeypatch.setattr(*target, full)
    with pytest.raises(CheckpointError, match="step_000006.*No space left"):
        checkpoints.save(6, WEIGHTS, OPTIMIZER, STATE, CONFIG)
    monkeypatch.undo()
    assert checkpoints.latest() == older
    assert [path.name for path in tmp_path.iterdir()] == [older.name]
    checkpoints.load(older)


def test_the_last_k_and_every_nth_are_kept(tmp_path):
    checkpoints = CheckpointStore(tmp_path, keep_last=2, keep_every=10)
    for step in (5, 10, 15, 20, 25, 30, 35):
        checkpoints.save(step, WEIGHTS, {}, {}, {})
    assert checkpoints.steps() == [10, 20, 30, 35]


def test_leftovers_of_a_killed_writer_are_never_read_and_can_be_removed(tmp_path):
    checkpoints, path = save(tmp_path, 5)
    leftover = tmp_path / ".tmp_step_000009.pdckpt_123"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    assert checkpoints.latest() == path
    checkpoints.remove_leftovers()
    assert not leftover.exists() and path.exists()


def test_a_digit_changed_in_the_state_file_is_noticed(tmp_path):
    checkpoints, path = save(tmp_path)
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace('"batch": 7', '"batch": 6'))
    with pytest.raises(CheckpointError, match="step_000005.pdckpt: state.json is damaged"):
        checkpoints.load(path)


def test_another_schema_version_is_refused_by_number(tmp_path):
    checkpoints, path = save(tmp_path)
    header = json.loads((path / "state.json").read_text())
    header["schema_version"] = 99
    del header["state_sha256"]
    (path / "state.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="schema 99, this version reads 1"):
        checkpoints.load(path)


def test_the_newest_checkpoint_is_hashed_once_and_a_change_behind_it_is_still_noticed(tmp_path, monkeypatch):
    _, path = save(tmp_path)
    hashed = []
    sha256 = store_module.sha256_of
    monkeypatch.setattr(store_module, "sha256_of", lambda file: hashed.append(file.name) or sha256(file))
    checkpoints = CheckpointStore(tmp_path)
    checkpoints.load(checkpoints.latest())
    assert sorted(hashed) == ["arrays.safetensors", "config.yml", "optimizer.safetensors", "weights.safetensors"]
    found = checkpoints.latest()
    (path / "weights.safetensors").write_bytes(b"another")
    with pytest.raises(CheckpointError, match="weights.safetensors is missing or damaged"):
        checkpoints.load(found)


def test_a_kill_while_a_step_is_saved_again_leaves_the_earlier_one_or_the_new_one(tmp_path, monkeypatch):
    checkpoints, path = save(tmp_path)
    rename, calls = os.rename, []

    def killed_before(number):
        def renamed(source, target):
            if len(calls) == number:
                raise SystemExit
            calls.append(source)
            rename(source, target)
        return renamed

    for number in range(2):
        calls.clear()
        monkeypatch.setattr(os, "rename", killed_before(number))
        with pytest.raises(SystemExit):  # no Exception: nothing is cleared up, as after a kill
            checkpoints.save(5, {"a.weight": np.zeros(1, "f4")}, {}, {}, CONFIG)
        monkeypatch.undo()
        checkpoints.remove_leftovers()
        np.testing.assert_array_equal(checkpoints.load(checkpoints.latest()).weights["a.weight"], WEIGHTS["a.weight"])
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
    checkpoints.save(5, {"a.weight": np.zeros(1, "f4")}, {}, {}, CONFIG)
    np.testing.assert_array_equal(checkpoints.load(path).weights["a.weight"], np.zeros(1))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_branch_that_was_abandoned_is_moved_aside_and_neither_resumed_nor_deleted(tmp_path, caplog):
    checkpoints = CheckpointStore(tmp_path, keep_last=2)
    for step in (4, 6, 8):
        checkpoints.save(step, WEIGHTS, {}, {"branch": "old"}, {})
    checkpoints.abandon_after(6)
    assert checkpoints.steps() == [6] and "abandoned_after_step_000006" in caplog.text
    checkpoints.save(8, WEIGHTS, {}, {"branch": "new"}, {})
    checkpoints.save(7, WEIGHTS, {}, {"branch": "third"}, {})  # without being told: steps only grow
    assert checkpoints.steps() == [6, 7]
    assert checkpoints.load(checkpoints.latest()).state["branch"] == "third"
    for folder, branch in (("abandoned_after_step_000006", "old"), ("abandoned_after_step_000007", "new")):
        assert checkpoints.load(tmp_path / folder / "step_000008.pdckpt").state["branch"] == branch
    checkpoints.abandon_after(7)
    assert checkpoints.steps() == [6, 7]


def test_a_checkpoint_that_steps_aside_for_its_new_copy_is_found_there_by_readers_without_the_lock(tmp_path):
    checkpoints, path = save(tmp_path)
    path.rename(tmp_path / ".replaced_step_000005.pdckpt")  # the power went before the new copy got the name
    assert checkpoints.steps() == [5]
    newest = CheckpointStore(tmp_path).latest()
    assert newest == checkpoints.path_of(5) == tmp_path / ".replaced_step_000005.pdckpt"
    assert checkpoints.load(newest).step == 5
    checkpoints.remove_leftovers()
    assert CheckpointStore(tmp_path).latest() == path


def sealed(path, change):
    """Change a file's text and make the hashes of the checkpoint fit again, as anybody can."""
    change(path)
    header = json.loads((path / "state.json").read_text())
    header["sha256"] = {name: store_module.sha256_of(path / name) for name in header["sha256"]}
    header["state_sha256"] = store_module._own_sha256(header)
    (path / "state.json").write_text(json.dumps(header))


def in_state(value):
    def change(path):
        header = json.loads((path / "state.json").read_text())
        header["state"] = value
        (path / "state.json").write_text(json.dumps(header))
    return change


@pytest.mark.parametrize("change", [
    lambda path: (path / "config.yml").write_text("a: !!float abc"), lambda path: (path / "config.yml").write_text("{"),
    lambda path: (path / "config.yml").write_bytes(b"\xff"), lambda path: (path / "config.yml").write_text("&a [*a]"),
    lambda path: (path / "weights.safetensors").write_bytes(b"x"), in_state({"__array__": "gone"}),
    in_state([{"__array__": []}])])
def test_a_checkpoint_whose_hashes_fit_but_whose_content_does_not_is_named(tmp_path, change):
    checkpoints, path = save(tmp_path)
    sealed(path, change)
    with pytest.raises(CheckpointError, match="step_000005.pdckpt"):
        checkpoints.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema_version": 1, "sha256": 3}', "[]", "9" * 5000])
def test_a_state_that_is_no_header_is_named_and_passed_over(tmp_path, text):
    checkpoints, path = save(tmp_path)
    (path / "state.json").write_text(text)
    assert checkpoints.latest() is None
    with pytest.raises(CheckpointError, match="no readable checkpoint here"):
        checkpoints.load(path)
