# SPDX-License-Identifier: Apache-2.0
"""A flipped bit is found whichever it is; a step that is computed twice must give the same bits; a failing step again
gives the number it gave."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from beitv2_core.engine import agreement, failing, guard
from beitv2_core.engine import loop as loop_module
from beitv2_core.engine.snapshot import Snapshot
from beitv2_core.errors import CheckpointError, CorruptionError, NonFiniteLossError

spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32", "bool"])
def test_any_single_flipped_bit_changes_the_sum_of_a_tensor_in_memory_and_on_the_device(dtype):
    array = (np.random.RandomState(0).randn(5) * 3).astype(dtype)
    before = agreement._sum_in_memory(paddle.to_tensor(array))
    on_device = int(agreement._sum_on_device(paddle.to_tensor(array)))
    for place in range(array.nbytes):
        for bit in range(1 if dtype == "bool" else 8):
            flipped = array.copy()
            flipped.view(np.uint8)[place] ^= 1 << bit
            tensor = paddle.to_tensor(flipped)
            assert agreement._sum_in_memory(tensor) != before, (place, bit)
            assert int(agreement._sum_on_device(tensor)) != on_device, (place, bit)


def test_sums_exist_for_tensors_of_no_and_of_one_number():
    sums = agreement.digests({"empty": paddle.zeros([0, 3]), "scalar": paddle.ones([]), "row": paddle.ones([3])})
    assert sums.numpy().tolist()[0] == 0 and len(set(sums.numpy().tolist())) == 3


@pytest.mark.parametrize(("rows", "wrong"), [
    ([[1, 5], [1, 5], [2, 5]], (2,)), ([[1, 5], [2, 5]], ()), ([[1, 5], [2, 6], [2, 5], [2, 5]], (0, 1)),
    ([[1], [1], [2], [2]], ()), ([[1], [2], [3]], ())])
def test_the_process_that_differs_is_named_where_most_agree(rows, wrong):
    assert agreement._minority(np.array(rows)) == wrong


def test_statistics_of_a_batch_norm_over_one_process_are_not_compared():
    class Net(nn.Layer):
        def __init__(self):
            super().__init__()
            self.norms = nn.Sequential(nn.BatchNorm2D(3), nn.SyncBatchNorm(3), nn.GroupNorm(1, 3))

    assert agreement._own_statistics(Net()) == {"norms.0._mean", "norms.0._variance"}


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def final(folder: Path) -> dict[str, bytes]:
    store = toy.CheckpointStore(folder / "checkpoints")
    found = store.load(store.latest())
    return {**{name: value.tobytes() for name, value in found.weights.items()},
            **{name: value.tobytes() for name, value in found.optimizer.items()}, "seen": found.state["task"]["seen"]}


def flip_after_updates(monkeypatch, steps: list[int]) -> None:
    """A bit of the last bias flips after the first computation of each of these steps (from 0)."""
    original, left, calls = loop_module.train_step, list(steps), []

    def train_step(task, *args, step, **options):
        found = original(task, *args, step=step, **options)
        calls.append(step)
        if left and step == left[0] and calls.count(step) % 2:
            left.pop(0)
            bits = task.model[3].bias.numpy().view(np.uint32) ^ np.uint32(1)
            task.model[3].bias.set_value(bits.view(np.float32))
        return found

    monkeypatch.setattr(loop_module, "train_step", train_step)


@pytest.mark.parametrize("step", [0, 8])
def test_a_step_computed_twice_finds_a_flip_names_it_and_the_run_ends_as_without(tmp_path, monkeypatch, step):
    """Before the first checkpoint the run goes back to its start, later to the checkpoint."""
    toy.make_loop(tmp_path / "whole").run()
    flip_after_updates(monkeypatch, [step])
    toy.make_loop(tmp_path / "flipped", verify_every=1).run()
    found, *more = map(json.loads, (tmp_path / "flipped" / guard.FILE).read_text().splitlines())
    assert (found["found_at_step"], found["after_step"], found["tensors"]) == (step + 1, step, ["3.bias"])
    assert found["went_back_to_step"] == (5 if step else 0)
    assert [line["repeated_until_step"] for line in more] == ([8] if step else [])  # step 0 is the first of all
    assert final(tmp_path / "flipped") == final(tmp_path / "whole")
    assert metrics(tmp_path / "flipped") == metrics(tmp_path / "whole")


def test_computing_steps_twice_changes_nothing(tmp_path):
    toy.make_loop(tmp_path / "whole", accumulate=2).run()
    toy.make_loop(tmp_path / "twice", accumulate=2, verify_every=2).run()
    assert final(tmp_path / "twice") == final(tmp_path / "whole")
    assert metrics(tmp_path / "twice") == metrics(tmp_path / "whole")
    assert not (tmp_path / "twice" / guard.FILE).exists()


def test_a_fault_that_comes_again_and_again_ends_the_run_and_says_so(tmp_path, monkeypatch):
    flip_after_updates(monkeypatch, [7] * 9)
    with pytest.raises(CorruptionError, match=r"3\.bias differs; it happened after step 7.* to step 5 3 times"):
        toy.make_loop(tmp_path, verify_every=1).run()
    assert toy.CheckpointStore(tmp_path / "checkpoints").steps() == [5]


def test_a_frozen_network_that_differs_ends_the_run_which_loads_it_anew(tmp_path):
    loop = toy.make_loop(tmp_path)
    found = agreement.Difference(20, 10, ("frozen/encoder.bias",), (1,), agreement.COMPARISON)
    with pytest.raises(CorruptionError, match="frozen/encoder.bias differs in process 1 .*loads it anew.*step 10"):
        loop.guard.going_back(found, 10)


def test_a_snapshot_restores_zeros_of_both_signs_and_an_optimizer_without_moments(tmp_path):
    loop = toy.make_loop(tmp_path)
    loop.task.model[0].bias.set_value(np.full(16, -0.0, dtype="float32"))
    before = Snapshot(loop.task, loop.optimizer, loop.precision)
    loop.run(stop_after=1)
    assert {"0.bias", "moment1_0/0.bias"} & set(before.differences()) and "task/seen" in before.differences()
    before.restore()
    assert before.differences() == []
    assert np.signbit(loop.task.model[0].bias.numpy()).all()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_failing_step_computed_again_gives_its_number_and_the_layer(tmp_path, accumulate):
    loop = toy.make_loop(tmp_path, poison=12, accumulate=accumulate)
    with pytest.raises(NonFiniteLossError):
        loop.run()
    saved = failing.read_failing(tmp_path / failing.file_name(12, 0))
    fresh = toy.make_loop(tmp_path / "other", poison=12, accumulate=accumulate)
    found = failing.replay(saved, fresh.task)
    assert found.same and np.isnan(found.loss) and found.where == "the output of 0"


def test_a_finite_loss_before_gradients_that_are_not_is_replayed_to_the_bit(tmp_path, monkeypatch):
    """The first loss is what the run logged, with its dropout; the gradient is none, and its parameters are named."""
    def loop(folder):
        made = toy.make_loop(folder)
        loss = made.task.loss

        def steep(batch, *, step):
            value, read = loss(batch, step=step)
            slope = made.task.model[3].bias
            return value + (0 * paddle.sqrt(slope * 0)).sum() if step == 6 else value, read

        made.task.loss = steep
        return made

    with pytest.raises(NonFiniteLossError, match="step 6: gradient norm is nan"):
        loop(tmp_path / "run").run()
    path = tmp_path / "run" / failing.file_name(6, 0)
    found = failing.replay(failing.read_failing(path), loop(tmp_path / "other").task)
    assert found.same and np.isfinite(found.loss) and found.where is None and "3.bias" in found.gradients
    with np.load(path) as file:
        assert json.loads(str(file["replay"]))["loss"] == repr(found.loss)


def test_images_and_weights_that_are_not_finite_are_named_before_layers(tmp_path):
    class Torn(toy.ToyLoader):
        def __iter__(self):
            for batch in super().__iter__():
                if self.position == 4:
                    batch.x[2, 3] = np.inf
                yield batch

    with pytest.raises(NonFiniteLossError):
        toy.make_loop(tmp_path, loader=Torn()).run()
    saved = failing.read_failing(tmp_path / failing.file_name(3, 0))
    found = failing.replay(saved, toy.make_loop(tmp_path / "other").task)
    assert found.where == "`x` of the batch" and found.same
    saved.weights["0.weight"] = np.full_like(saved.weights["0.weight"], np.nan)
    saved.batches[0].x[2, 3] = 0
    assert failing.replay(saved, toy.make_loop(tmp_path / "more").task).where == "the weights 0.weight"


@pytest.mark.parametrize("damage", ["cut", "old", "none", "no weights"])
def test_a_file_that_is_no_saved_step_is_refused_with_a_word(tmp_path, damage):
    path = tmp_path / failing.file_name(12, 0)
    with pytest.raises(NonFiniteLossError):
        toy.make_loop(tmp_path, poison=12).run()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "old":
        np.savez(str(path), x=np.zeros(3))
    elif damage == "none":
        path.unlink()
    else:
        path.with_suffix(".safetensors").unlink()
    with pytest.raises(CheckpointError, match="failing_batch_step_12_rank_0"):
        failing.read_failing(path)
