# SPDX-License-Identifier: Apache-2.0
"""The loop resumes exactly, refuses what would not be exact, and keeps what it had when something goes wrong."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.engine.loop import TrainingInterrupted
from beitv2_core.engine.step import SettingNames
from beitv2_core.errors import ConfigError, DataError, NonFiniteLossError, OutOfMemoryError, OutputError

TOY = Path(__file__).with_name("toy.py")
spec = importlib.util.spec_from_file_location("toy", TOY)
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


def final(folder: Path):
    checkpoints = CheckpointStore(folder / "checkpoints")
    return checkpoints.load(checkpoints.latest())


def assert_same_end(one: Path, other: Path) -> None:
    a, b = final(one), final(other)
    assert a.step == b.step
    for kind in ("weights", "optimizer"):
        left, right = getattr(a, kind), getattr(b, kind)
        assert set(left) == set(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert a.state["task"]["seen"] == b.state["task"]["seen"]


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


@pytest.mark.parametrize("stop", [1, 5, 8, 13])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(tmp_path, stop):
    toy.make_loop(tmp_path / "whole").run()
    toy.make_loop(tmp_path / "parts").run(stop_after=stop)
    toy.make_loop(tmp_path / "parts").run("auto")
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_a_resume_from_an_older_checkpoint_is_gone_on_with_by_the_next_resume(tmp_path):
    toy.make_loop(tmp_path, steps=20).run(stop_after=18)
    store = CheckpointStore(tmp_path / "checkpoints")
    older = store.steps()[0]
    assert older < 18
    toy.make_loop(tmp_path, steps=20).run(tmp_path / "checkpoints" / f"step_{older:06d}.pdckpt", stop_after=1)
    assert store.steps() == [older, older + 1]
    aside = tmp_path / "checkpoints" / f"abandoned_after_step_{older:06d}"
    assert [path.name for path in aside.iterdir()] == ["step_000018.pdckpt"]
    toy.make_loop(tmp_path, steps=20).run("auto")
    toy.make_loop(tmp_path / "whole", steps=20).run()
    assert_same_end(tmp_path / "whole", tmp_path)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_for_bit_the_same(tmp_path):
    """SIGKILL, with a checkpoint after every step so that many kills fall into the writing of one."""
    steps = 60
    toy.make_loop(tmp_path / "whole", steps=steps, save_every=1).run()
    command = [sys.executable, str(TOY), str(tmp_path / "killed"), str(steps), "1"]
    draw = random.Random(5)
    for _ in range(4):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        started = time.monotonic()
        while not (tmp_path / "killed" / "checkpoints").is_dir() and time.monotonic() - started < 60:
            time.sleep(0.05)
        time.sleep(draw.uniform(2.0, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".tmp*"))


def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path):
    loop = toy.make_loop(tmp_path / "run", save_every=100)
    original = loop.task.loss

    def interrupted(batch, *, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch, step=step)

    loop.task.loss = interrupted
    with pytest.raises(TrainingInterrupted, match="after step 7, which is saved") as caught:
        loop.run()
    assert caught.value.signal_number == signal.SIGTERM
    toy.make_loop(tmp_path / "run", save_every=100).run("auto")
    toy.make_loop(tmp_path / "whole").run()
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    class Halves(toy.ToyLoader):
        """The same images as the large loader's, half a batch at a time."""

        def __iter__(self):
            while True:
                x = np.random.RandomState(self.position // 2).randn(16, 6).astype("float32")
                half = x[:8] if self.position % 2 == 0 else x[8:]
                self.position += 1
                yield toy.Batch(half, [])

    large = toy.make_loop(tmp_path / "large", dropout=0.0, batch=16)
    large.run()
    small = toy.make_loop(tmp_path / "small", dropout=0.0, accumulate=2)
    small.loader = Halves()
    small.run()
    a, b = final(tmp_path / "large").weights, final(tmp_path / "small").weights
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_non_finite_loss_names_everything_saves_the_batch_and_keeps_the_checkpoint(tmp_path):
    loop = toy.make_loop(tmp_path, poison=12)
    with pytest.raises(NonFiniteLossError, match=r"step 12: loss is nan at lr=.*gradient norm.*image_13"):
        loop.run()
    with np.load(tmp_path / "failing_batch_step_12_rank_0.npz") as saved:
        np.testing.assert_array_equal(saved["x"], np.random.RandomState(12).randn(8, 6).astype("float32"))
    assert final(tmp_path).step == 10
    toy.make_loop(tmp_path).run("auto")
    assert final(tmp_path).step == 20


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    first = toy.make_loop(tmp_path)
    first.run_folder.open()
    try:
        with pytest.raises(ConfigError, match="another process is training"):
            toy.make_loop(tmp_path).run()
    finally:
        first.run_folder.close()


def test_starting_anew_over_a_trained_run_is_refused(tmp_path):
    toy.make_loop(tmp_path).run()
    with pytest.raises(ConfigError, match="already holds step_000020.pdckpt.*--resume auto"):
        toy.make_loop(tmp_path).run(None)


def test_resuming_with_other_settings_lists_them(tmp_path):
    toy.make_loop(tmp_path, config={"seed": 1, "optim": {"lr": 0.01}}).run(stop_after=5)
    with pytest.raises(ConfigError, match=r"optim.lr: 0.01 -> 0.02"):
        toy.make_loop(tmp_path, config={"seed": 1, "optim": {"lr": 0.02}}).run("auto")


def test_a_run_folder_tells_what_was_run(tmp_path):
    summary = toy.make_loop(tmp_path).run()
    assert {"config.yml", "environment.json", "metrics.jsonl", "summary.json"} <= {p.name for p in tmp_path.iterdir()}
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["seed"] == 1 and environment["device"] == "cpu"
    assert any(name.startswith("paddlepaddle") for name in environment["versions"])
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == summary["steps"] == 20
    steps = [line["step"] for line in metrics(tmp_path)]
    assert steps == [4, 8, 12, 16, 20] and all("loss" in line and "lr" in line for line in metrics(tmp_path))


def test_a_finished_run_started_again_loses_nothing_that_was_told_of_it(tmp_path):
    toy.make_loop(tmp_path).run()
    told = {**json.loads((tmp_path / "summary.json").read_text()), "report": {"images": 9}}
    assert told["seconds"] > 0 and told["last"]["loss"] > 0
    (tmp_path / "summary.json").write_text(json.dumps(told))
    assert toy.make_loop(tmp_path).run() == json.loads((tmp_path / "summary.json").read_text()) == told

    (tmp_path / "summary.json").unlink()  # killed between the last checkpoint and the summary
    assert toy.make_loop(tmp_path).run()["last"] == told["last"]


def test_what_was_measured_is_logged_and_shown_at_its_step_and_once_after_a_kill(tmp_path, caplog):
    """Steps 7 and 14 end epochs and are no log steps, step 20 is one; killed between measuring and saving at 14."""
    def loop(folder):
        made = toy.make_loop(folder)
        made.task.after_step = lambda *, step: {"val_acc1": step / 100} if step + 1 in (7, 14, 20) else None
        return made

    logging.getLogger("beitv2_core").propagate = True
    with caplog.at_level(logging.INFO, logger="beitv2_core"):
        summary = loop(tmp_path / "whole").run()
    found = {line["step"]: line["val_acc1"] for line in metrics(tmp_path / "whole") if "val_acc1" in line}
    assert found == {7: 0.06, 14: 0.13, 20: 0.19} and summary["last"]["val_acc1"] == 0.19
    steps = [line["step"] for line in metrics(tmp_path / "whole")]
    assert steps == sorted(set(steps)) == [4, 7, 8, 12, 14, 16, 20]
    assert "step 14/20  measured: val_acc1 0.13" in caplog.text
    loop(tmp_path / "parts").run(stop_after=14)
    shutil.rmtree(tmp_path / "parts/checkpoints/step_000014.pdckpt")
    loop(tmp_path / "parts").run("auto")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_files_half_written_by_a_killed_process_are_removed_at_the_next_start(tmp_path):
    (tmp_path / "best_model").mkdir()
    for name in (".config.yml.123.beitv2.tmp", "best_model/.model.pdparams.123.beitv2.tmp"):
        (tmp_path / name).write_text("half")
    toy.make_loop(tmp_path).run()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_does_not_hide_a_non_finite_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(NonFiniteLossError, match="step 12: loss is nan"):
        toy.make_loop(tmp_path, poison=12).run()


def full_disk(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_run_folder_removed_in_mid_run_ends_the_run_and_keeps_its_newest_step(tmp_path):
    loop = toy.make_loop(tmp_path / "run")
    loop.task.on_epoch = lambda epoch: epoch == 1 and (loop.writer.wait(), shutil.rmtree(tmp_path / "run"))
    with pytest.raises(OutputError, match="run: the run folder was removed"):
        loop.run()
    assert final(tmp_path / "run").step == 10
    toy.make_loop(tmp_path / "whole").run()
    toy.make_loop(tmp_path / "run").run("auto")
    assert_same_end(tmp_path / "whole", tmp_path / "run")


GPU = ("ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate 98.000244MB memory on GPU 0, "
       "6.000000GB memory has been allocated and available memory is only 0.000000B.")


@pytest.mark.parametrize("error", [MemoryError("(ResourceExhausted) Fail to alloc memory of 8 size"), RuntimeError(GPU),
                                   SystemError("(External) CUDNN_STATUS_ALLOC_FAILED."), MemoryError()])
@pytest.mark.parametrize("batch, accumulate, half", [(8, 1, 4), (6, 2, 3), (7, 1, 1), (1, 2, None)])
def test_a_step_without_memory_says_which_batch_to_try(tmp_path, error, batch, accumulate, half):
    loop = toy.make_loop(tmp_path, batch=batch, accumulate=accumulate, config={"train": {"batch_size": batch}})
    original = loop.task.loss
    loop.task.loss = lambda batch, *, step: original(batch, step=step) if step < 6 else failing(error)
    with pytest.raises(OutOfMemoryError, match=f"step 6: out of memory with a batch of {batch} images") as caught:
        loop.run()
    asked = f"train.batch_size={half} and train.total_batch={batch * accumulate}"
    assert (asked in str(caught.value)) == (half is not None)
    assert "train.recompute=true" in str(caught.value) and "intact" in str(caught.value)
    assert caught.value.__cause__ is error and final(tmp_path).step == 5


def test_advice_names_the_settings_as_the_caller_calls_them(tmp_path):
    names = SettingNames(batch_size="batch_size", total_batch="total_batch", recompute="model.backbone.recompute")
    loop = toy.make_loop(tmp_path, batch=4, names=names)
    loop.task.loss = lambda batch, *, step: failing(MemoryError())
    with pytest.raises(OutOfMemoryError, match="Set batch_size=2 and total_batch=4.*; model.backbone.recompute=true"):
        loop.run()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), OSError(5, "Input/output error")])
def test_other_errors_of_a_step_pass_unchanged(tmp_path, error):
    loop = toy.make_loop(tmp_path)
    loop.task.loss = lambda batch, *, step: failing(error)
    with pytest.raises(type(error)) as caught:
        loop.run()
    assert caught.value is error


def failing(error):
    raise error


def test_mixed_precision_that_is_not_computed_is_refused_under_the_name_its_settings_have(tmp_path, without_bfloat16):
    with pytest.raises(ConfigError, match="train.amp: bf16.*Set train.amp=off"):
        toy.make_loop(tmp_path, amp="bf16")
    with pytest.raises(ConfigError, match="run.precision: fp16.*Set run.precision=fp32"):
        toy.make_loop(tmp_path, amp="fp16", names=SettingNames(amp_off="run.precision=fp32"))
    assert not list(tmp_path.iterdir())


def test_a_resume_with_other_images_is_refused_unless_it_is_asked_for(tmp_path, caplog):
    def loop(images, **more):
        return toy.make_loop(tmp_path, loader=toy.ToyLoader(images=images), **more)

    loop("a b c").run(stop_after=5)
    with pytest.raises(DataError, match="step_000005.*other images.*train.other_data=true"):
        loop("a b d").run("auto")
    logging.getLogger("beitv2_core").propagate = True
    loop("a b d", other_data=True).run("auto", stop_after=5)
    assert "other images" in caplog.text
    loop("a b d").run("auto")
    assert final(tmp_path).step == 20


@pytest.mark.parametrize("given", ["auto", None, "first"])
def test_a_job_that_is_started_again_goes_on_from_what_it_saved_whatever_resume_says(tmp_path, monkeypatch, given):
    toy.make_loop(tmp_path / "whole").run()
    toy.make_loop(tmp_path / "parts").run(stop_after=10)
    first = tmp_path / "parts/checkpoints/step_000010.pdckpt"
    toy.make_loop(tmp_path / "parts").run(stop_after=3)
    monkeypatch.setenv("BEITV2_LAUNCH_RESTARTED", "1")
    loop = toy.make_loop(tmp_path / "parts")
    loop.run(first if given == "first" else given, stop_after=1)
    assert loop.step == 14
    toy.make_loop(tmp_path / "parts").run("auto")
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_a_job_that_is_started_again_before_it_saved_starts_from_the_checkpoint_it_was_given(tmp_path, monkeypatch):
    toy.make_loop(tmp_path / "before").run(stop_after=10)
    monkeypatch.setenv("BEITV2_LAUNCH_RESTARTED", "1")
    loop = toy.make_loop(tmp_path / "new")
    loop.run(tmp_path / "before/checkpoints/step_000010.pdckpt", stop_after=1)
    assert loop.step == 11
