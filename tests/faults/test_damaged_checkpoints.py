# SPDX-License-Identifier: Apache-2.0
"""A checkpoint damaged on disk is named and passed over; nothing of it is ever taken for the truth."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import toy

from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.errors import CheckpointError

FILES = ("weights.safetensors", "optimizer.safetensors", "arrays.safetensors", "config.yml", "state.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    toy.make_loop(folder, steps=20, save_every=5).run()
    return folder


def assert_passed_over(folder, caplog, what):
    """The damaged newest checkpoint is named, the one before it is whole and used, and asking for it is refused."""
    caplog.clear()
    store = CheckpointStore(folder)
    assert store.latest() == folder / "step_000015.pdckpt", what
    assert "step_000020.pdckpt" in caplog.text, what
    store.load(folder / "step_000015.pdckpt")
    with pytest.raises(CheckpointError, match="step_000020.pdckpt"):
        store.load(folder / "step_000020.pdckpt")


def test_a_file_cut_at_every_tenth_byte_is_noticed(run, tmp_path, caplog, case):
    """Every file of a checkpoint cut at every tenth byte: named, refused, and the whole one before it is used."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(run / "checkpoints", folder)
    for name in FILES:
        content = (folder / "step_000020.pdckpt" / name).read_bytes()
        for length in range(0, len(content), 10):
            (folder / "step_000020.pdckpt" / name).write_bytes(content[:length])
            assert_passed_over(folder, caplog, f"{name} cut at {length}")
            case.inject(f"{name} cut")
        (folder / "step_000020.pdckpt" / name).unlink()
        assert_passed_over(folder, caplog, f"{name} gone")
        case.inject(f"{name} removed")
        (folder / "step_000020.pdckpt" / name).write_bytes(content)
    assert CheckpointStore(folder).latest() == folder / "step_000020.pdckpt"
    case.check("named in a warning, refused by name, the whole checkpoint before it is used")


def test_a_flipped_bit_is_noticed_or_changes_nothing(run, tmp_path, caplog, seed, case):
    """400 flipped bits in each file: refused, or, where the bit means nothing, the very same values."""
    draw = random.Random(seed)
    folder = tmp_path / "checkpoints"
    shutil.copytree(run / "checkpoints", folder)
    truth = CheckpointStore(folder).load(folder / "step_000020.pdckpt")
    harmless = 0
    for name in FILES:
        path = folder / "step_000020.pdckpt" / name
        content = path.read_bytes()
        for _ in range(400):
            place, bit = draw.randrange(len(content)), draw.randrange(8)
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            case.inject(f"bit flipped in {name}")
            what = f"bit {bit} of byte {place} of {name}"
            if CheckpointStore(folder).latest() == folder / "step_000020.pdckpt":
                np.testing.assert_equal(CheckpointStore(folder).load(folder / "step_000020.pdckpt"), truth, what)
                harmless += 1
            else:
                assert_passed_over(folder, caplog, what)
        path.write_bytes(content)
    case.check("refused by name, or every value as it was saved")
    case.note(f"{harmless} bits changed no value (spaces of state.json)")


def test_a_resumed_run_passes_over_damaged_checkpoints_to_the_same_end(run, tmp_path, seed, caplog, case):
    """The run goes on from the checkpoint before the damaged one and ends with the same weights."""
    draw = random.Random(seed)
    truth = CheckpointStore(run / "checkpoints").load(run / "checkpoints/step_000020.pdckpt")
    for name in FILES:
        folder = tmp_path / name
        shutil.copytree(run, folder)
        path = folder / "checkpoints/step_000020.pdckpt" / name
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 0xFF
        path.write_bytes(content)
        caplog.clear()
        toy.make_loop(folder, steps=20, save_every=5).run("auto")
        case.inject(f"byte changed in {name}")
        assert f"step_000020.pdckpt: {name}" in caplog.text or f"({name}:" in caplog.text
        after = CheckpointStore(folder / "checkpoints").load(folder / "checkpoints/step_000020.pdckpt")
        np.testing.assert_equal((after.weights, after.optimizer, after.state["task"]),
                                (truth.weights, truth.optimizer, truth.state["task"]))
    case.check("the damaged file is named; weights, optimizer and task state equal the uninterrupted run's")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_commands_that_read_a_run_use_its_newest_whole_checkpoint(run, tmp_path, damage, case):
    """What reads trained weights passes over a damaged checkpoint too, and refuses a run without a whole one."""
    from beitv2_core.assembly.restore import read_checkpoint

    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    truth = read_checkpoint(str(folder / "checkpoints/step_000015.pdckpt"))
    for step in (20, 15):
        path = folder / f"checkpoints/step_{step:06d}.pdckpt/weights.safetensors"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
        case.inject(f"weights.safetensors {damage}")
        with pytest.raises(CheckpointError, match=f"step_{step:06d}.pdckpt: weights.safetensors is missing or damaged"):
            read_checkpoint(str(path.parent))
        if step == 20:
            found = read_checkpoint(str(folder))
            assert found.step == 15
            np.testing.assert_equal(dict(found.weights), dict(truth.weights))
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        read_checkpoint(str(folder))
    case.check("the whole one before it is read; none left: refused")


def test_a_state_file_without_its_own_hash_is_read_and_one_with_unknown_keys_is_not(run, tmp_path, case):
    """Checkpoints written before state.json held a hash of itself are still read."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(run / "checkpoints", folder)
    path = folder / "step_000020.pdckpt/state.json"
    header = json.loads(path.read_text())
    del header["state_sha256"]
    path.write_text(json.dumps(header))
    assert CheckpointStore(folder).load(path.parent).step == 20
    header["state_sha257"] = "0"
    path.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="step_000020.pdckpt: state.json .*damaged"):
        CheckpointStore(folder).load(path.parent)
    case.inject("state.json of an older version")
    case.inject("unknown key in state.json")
    case.check("read; refused by name")
