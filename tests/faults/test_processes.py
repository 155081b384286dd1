# SPDX-License-Identifier: Apache-2.0
"""Memory, clocks, signals, locks and folders that turn against a running training."""

from __future__ import annotations

import json
import os
import signal
import time

import fault_stages as stages
import numpy as np
import pytest
from disks import mount, small_disk
from e2e_runs import placed
from warm import Warm

STEPS = 8


@pytest.fixture(scope="module")
def sources(warm, tmp_path_factory):
    return stages.make_sources(warm, tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def whole(warm, sources):
    """Uninterrupted runs, made when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = sources / f"whole_{name}"
            warm.run(sources / f"{name}.log", placed(stages.stage(name, sources, STEPS), made[name], 2))
        return made[name]
    return get


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_step_without_memory_names_the_batch_to_try(name, warm, sources, whole, tmp_path, case):
    """RLIMIT_AS makes Paddle's allocation fail in a step: the batch, half of it, and a run that can go on."""
    command = placed(stages.stage(name, sources, STEPS), tmp_path / "run", 2)
    output = warm.run(tmp_path / "log", command, code=2, inject=["no_memory", 5])
    size, section = (4, "") if name == "segment" else (16, "train.")
    assert f"run: step 5: out of memory with a batch of {size} images" in output, output
    assert f"{section}batch_size={size // 2} and {section}total_batch={size}" in output
    assert "Fail to alloc memory" in output and "Traceback" not in output
    assert stages.steps_present(tmp_path / "run")[-1] == 4
    case.inject("RLIMIT_AS reached in a step")
    warm.run(tmp_path / "log", command)
    stages.assert_same_run(whole(name), tmp_path / "run")
    half = [*stages.stage(name, sources, STEPS), f"{section}batch_size={size // 2}", f"{section}total_batch={size}"]
    output = warm.run(tmp_path / "log", placed(half, tmp_path / "half", 2))
    assert f"total batch: {size}" in output and "2 accumulated" in output
    case.check("message with batch, half of it and total_batch; the settings it names train; the checkpoint is intact; "
               "resumed to the same end")


@pytest.mark.parametrize("name", stages.NAMES)
def test_jumping_clocks_change_nothing(name, warm, sources, whole, seed, tmp_path, case):
    """time.time and time.monotonic jump by up to a day: no crash, no negative number, the same run."""
    warm.run(tmp_path / "log", placed(stages.stage(name, sources, STEPS), tmp_path / "run", 2),
             inject=["clock_jumps", seed])
    case.inject("run with jumping clocks")
    stages.assert_same_run(whole(name), tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = [summary["images_per_second"], summary["seconds"], *(line["images_per_second"] for line in lines)]
    assert all(np.isfinite(rate) and rate >= 0 for rate in rates), rates
    assert "eta -" not in (tmp_path / "log").read_text()
    case.check("every file equal, rates and times finite and not negative")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "both", "SIGTERM while saving", "SIGINT while saving"])
def test_signals_that_come_twice_or_while_saving_stop_the_run_once(how, warm, sources, whole, tmp_path, case):
    """The step is finished, a whole checkpoint is there, exit code 128 + signal, and the resumed run is the same."""
    term, interrupt = int(signal.SIGTERM), int(signal.SIGINT)
    numbers = {"SIGTERM": [term] * 2, "SIGINT": [interrupt] * 2, "both": [interrupt, term]}.get(how)
    inject = ["signals", 3, numbers] if numbers else [
        "signal_while_saving", term if how.startswith("SIGTERM") else interrupt, 2]
    command = placed(stages.stage("pretrain", sources, STEPS), tmp_path / "run", 2)
    code = 128 + (numbers or [inject[1]])[-1]
    output = warm.run(tmp_path / "log", command, code=code, inject=inject)
    assert "which is saved. Continue with --resume auto" in output and "Traceback" not in output
    case.inject(f"two signals: {how}")
    assert stages.leftovers(tmp_path / "run") == []
    warm.run(tmp_path / "log", command)
    stages.assert_same_run(whole("pretrain"), tmp_path / "run")
    case.check("saved once and whole, exit code 128 + n, resumed to the same end")


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_kill_while_a_checkpoint_is_written_and_the_training_goes_on_costs_that_checkpoint_only(
        name, warm, sources, whole, tmp_path, case):
    """SIGKILL after each file of the checkpoint of step 4, beside step 5: step 2 is used, the end is the same."""
    command = placed(stages.stage(name, sources, STEPS), tmp_path / "run", 2)
    for file in (1, 2, 3):
        warm.run(tmp_path / "log", command, code=-signal.SIGKILL, inject=["kill_while_writing", 4, file])
        case.inject("SIGKILL while a checkpoint is written beside a step")
        assert stages.steps_present(tmp_path / "run") == [2]
    output = warm.run(tmp_path / "log", command)
    assert "An older checkpoint is used" not in output
    stages.assert_same_run(whole(name), tmp_path / "run")
    case.check("the checkpoint before is whole and used, no half of one under a name; resumed to the same end")


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_the_main_process_s(number, batch, warm, sources, whole, tmp_path, case):
    """Schedulers and terminals signal the data workers too: the run saves and ends as if it alone had been told."""
    more = ["data.num_workers=2"]
    command = placed(stages.stage("pretrain", sources, STEPS) + more, tmp_path / "run", 2)
    output = warm.run(tmp_path / "log", command, code=128 + number, inject=["signal_to_the_group", batch, int(number)])
    assert f"after step {batch}, which is saved" in output and "Traceback" not in output, output
    case.inject(f"{number.name} to the process group of a run with 2 workers")
    warm.run(tmp_path / "log", command)
    stages.assert_same_run(whole("pretrain"), tmp_path / "run")
    case.check("the step is saved, exit code 128 + n, resumed to the same end")


def test_two_runs_never_write_into_one_folder(warm, sources, tmp_path, case):
    """The second is refused, by whatever path; after SIGKILL of the first the folder is free at once."""
    folder = tmp_path / "run"
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    command = [*stages.stage("pretrain", sources, 4000), "data.num_workers=2"]
    number = warm.start(tmp_path / "log", placed(command, folder, 5))
    second = Warm()
    try:
        deadline = time.monotonic() + 60
        while not stages.steps_present(folder):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
        before = sorted(stages.files(folder))
        for path in (folder, tmp_path / "link", tmp_path / "link" / ".." / "run"):
            output = second.run(tmp_path / "second.log", placed(command, path, 5), code=2)
            assert "another process is training in this folder" in output
            case.inject("second run on a folder that is being trained in")
        assert set(before) & stages.files(folder)
        os.kill(number, signal.SIGKILL)
        assert warm.wait() == -signal.SIGKILL
        case.inject("SIGKILL of the first run")
        reached = stages.steps_present(folder)[-1]
        number = second.start(tmp_path / "second.log", placed(command, tmp_path / "link", 5))
        while stages.steps_present(folder)[-1] <= reached:
            assert time.monotonic() < deadline + 60, (tmp_path / "second.log").read_text()
            time.sleep(0.01)
        os.kill(number, signal.SIGTERM)
        assert second.wait() == 128 + signal.SIGTERM
    finally:
        second.close()
    case.check("refused by path, by link and through ..; after the kill the next run goes on")


def test_output_places_that_cannot_be_written_are_named(warm, sources, tmp_path, case):
    """A read-only disk, a file in place of the folder, of its parent or of its checkpoints: code 2 and one message."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/checkpoints").write_text("mine")
    stage = stages.stage("pretrain", sources, STEPS)
    places = {tmp_path / "file": "cannot write there", tmp_path / "file/run": "cannot write there",
              tmp_path / "broken": "the checkpoint could not be written"}
    with small_disk(tmp_path / "disk") as disk:
        (disk / "run").mkdir()
        mount(disk, "remount,ro")
        places.update({disk / "run": "cannot write there", disk / "new": "cannot write there"})
        for place, message in places.items():
            output = warm.run(tmp_path / "log", placed(stage, place, 2), code=2)
            assert message in output and str(place) in output and "Traceback" not in output, output
            case.inject("output that cannot be written")
    assert (tmp_path / "file").read_text() == (tmp_path / "broken/checkpoints").read_text() == "mine"
    case.check("exit code 2, the path and the reason named, nothing of the user's overwritten")


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_folder_removed_in_mid_run_keeps_the_newest_step(name, warm, sources, whole, tmp_path, case):
    """The run ends with a message at its next checkpoint, which is saved; resumed, it ends with the same weights."""
    command = placed(stages.stage(name, sources, STEPS), tmp_path / "run", 2)
    output = warm.run(tmp_path / "log", command, code=2, inject=["remove_folder", 4, str(tmp_path / "run")])
    assert "the run folder was removed or replaced" in output and "Traceback" not in output, output
    case.inject("run folder removed in mid-run")
    assert stages.steps_present(tmp_path / "run") == [6]
    warm.run(tmp_path / "log", command)
    stages.assert_same_end(whole(name), tmp_path / "run")
    case.check("the step after it is saved anew; weights, optimizer and task state of the end are the same")
