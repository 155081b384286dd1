# SPDX-License-Identifier: Apache-2.0
"""Data workers that are killed or hang, disks that fail to read, images that vanish while a run reads them."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import time
from pathlib import Path

import fault_stages as stages
import numpy as np
import pytest
from bad_images import image
from e2e_runs import TOKENIZER, placed
from troubled_data import DiesWhileSending, Slow

from beitv2_core.data import ImageFolder, Loader, ResumableSampler, TokenizerTransform
from beitv2_core.data import workers as workers_module
from beitv2_core.errors import DataError

COUNT = 24


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        image(random.Random(number), (24, 24)).save(folder / f"{number:02d}.png")
    return folder


def loader_of(dataset, workers=2):
    return Loader(dataset, TokenizerTransform(8), ResumableSampler(COUNT, batch_size=3, seed=1), num_workers=workers)


def take(loader, count):
    return [batch[0] for batch in itertools.islice(iter(loader), count)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_worker_killed_at_any_time_is_an_error_and_the_batches_go_on_where_they_were(workers, images, case):
    """Each of N workers killed in turn, again and again: a DataError, and the next iteration continues exactly."""
    wanted = take(loader_of(ImageFolder(images), 0), 40)
    got = []
    with loader_of(ImageFolder(images), workers) as loader:
        for victim in range(2 * workers):
            batches = iter(loader)
            with pytest.raises(DataError, match=f"one of {workers} data workers exited unexpectedly"):
                for number in itertools.count():
                    got.append(next(batches)[0])
                    if number == victim % 3:
                        os.kill(sorted(loader._pool._processes)[victim % workers], signal.SIGKILL)
            case.inject(f"SIGKILL of a data worker, one of {workers}")
        got += take(loader, max(0, 40 - len(got)))
    assert len(got) >= 40
    np.testing.assert_array_equal(got[:40], wanted)
    case.check("DataError each time; the batches before and after are those of a run without workers")


def test_a_worker_killed_while_it_sends_a_batch_is_noticed(images, monkeypatch, case):
    """The pool would wait for the rest of the batch for ever: a DataError, and the next iteration continues exactly."""
    monkeypatch.setattr(workers_module, "POLL_S", 0.2)
    wanted = take(loader_of(ImageFolder(images), 0), 8)
    for index in range(3):
        with loader_of(ImageFolder(images), 2) as loader:
            whole, loader.transform = loader.transform, DiesWhileSending(images / f"{7 * index:02d}.png")
            with pytest.raises(DataError, match="one of 2 data workers exited unexpectedly"):
                take(loader, 8)
            case.inject("SIGKILL of a data worker in the middle of sending a batch")
            loader.transform = whole
            done = loader.state()["epoch"] * 8 + loader.state()["picture"] // loader.sampler.global_batch
            np.testing.assert_array_equal(take(loader, 8 - done), wanted[done:])
    case.check("DataError, no wait without end, the batches go on where they were")


def test_a_run_whose_workers_are_killed_ends_with_code_2_and_resumes_exactly(warm, tmp_path, case):
    """A training whose data workers are killed: message, whole checkpoint, the same end after the resume."""
    sources = stages.make_sources(warm, tmp_path)
    stage = stages.stage("pretrain", sources, 60)
    warm.run(tmp_path / "log", placed(stage, tmp_path / "whole", 5))
    command = placed([*stage, "data.num_workers=2"], tmp_path / "run", 5)
    for _ in range(3):
        warm.run(tmp_path / "log", command, code=2, inject=["kill_a_worker", 17])
        assert "data workers exited unexpectedly" in (tmp_path / "log").read_text()
        case.inject("data worker of a training killed")
    warm.run(tmp_path / "log", command)
    stages.assert_same_run(tmp_path / "whole", tmp_path / "run")
    case.check("exit code 2, checkpoint intact, resumed to the same end")


def test_a_worker_that_hangs_is_spoken_of_and_killed_at_the_end(images, monkeypatch, caplog, case):
    """A slow read: the log says what is waited for, the batch is right when it comes; a hung worker does not stay."""
    monkeypatch.setattr(workers_module, "POLL_S", 0.1)
    monkeypatch.setattr(workers_module, "WARN_AFTER_S", 0.3)
    monkeypatch.setattr(workers_module, "SHUTDOWN_TIMEOUT_S", 0.5)
    wanted = take(loader_of(ImageFolder(images), 0), 8)
    dataset = Slow(images)
    dataset.seconds = 1.5
    with caplog.at_level(logging.WARNING), loader_of(dataset) as loader:
        np.testing.assert_array_equal(take(loader, 8), wanted)
    assert "the next batch has not come" in caplog.text
    case.inject("read that takes long")
    dataset.seconds = 600.0
    loader = loader_of(dataset, 2)
    batches = iter(loader)
    next(batches)
    workers = list(loader._pool._processes.values())
    time.sleep(1)
    began = time.monotonic()
    loader.close()
    for worker in workers:
        worker.join(5)
    assert time.monotonic() - began < 60 and not any(worker.is_alive() for worker in workers)
    case.inject("read that never ends")
    case.check("a warning while waiting, the same batches; closing ends with the hung worker killed")


@pytest.mark.parametrize("times", [1, 2, -1])
def test_read_errors_that_pass_change_nothing_and_those_that_stay_are_counted(times, images, warm, tmp_path, case):
    """EIO once or twice: the very same run; EIO for ever: named, replaced, and the share of corrupt files holds."""
    command = [*TOKENIZER, "data.dataset=folder", f"data.root={images}", "data.size=null", "train.batch_size=8",
               "optim.steps=9"]
    warm.run(tmp_path / "log", placed(command, tmp_path / "whole", 3))
    inject = ["read_error", "07.png", times]
    case.inject("EIO while reading an image" + (" for ever" if times < 0 else f", {times} x"))
    if times > 0:
        output = warm.run(tmp_path / "log", placed(command, tmp_path / "run", 3), inject=inject)
        assert "07.png" in output and "tried again" in output
        stages.assert_same_run(tmp_path / "whole", tmp_path / "run")
        case.check("the warning names the file; the run is the same to the bit")
        return
    output = warm.run(tmp_path / "log", placed(command, tmp_path / "run", 3), code=2, inject=inject)
    assert "1 of 24 files cannot be decoded" in output and "Traceback" not in output
    output = warm.run(tmp_path / "log", placed([*command, "data.max_corrupt=0.05"], tmp_path / "run", 3),
                      inject=inject)
    assert "07.png cannot be decoded (OSError: [Errno 5] Input/output error" in output
    case.check("above the share exit code 2 with the list; within it the image is named and replaced")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_vanish_while_a_run_reads_them_are_counted_and_named(workers, images, case):
    """Images removed in mid-run are replaced by the next and listed; one too many ends the run with the list."""
    dataset = ImageFolder(images, max_corrupt=2 / COUNT, report=images.parent / "report.txt")
    with loader_of(dataset, workers) as loader:
        take(loader, 2)
        for name in ("03.png", "04.png"):
            (images / name).unlink()
        take(loader, 2 * COUNT // 3 + 4)
        assert {Path(path).name for path in dataset.corrupt.found} == {"03.png", "04.png"}
        case.inject("image removed in mid-run", 2)
        (images / "15.png").unlink()
        with pytest.raises(DataError, match="3 of 24 files cannot be decoded"):
            take(loader, 2 * COUNT // 3 + 4)
        case.inject("one more removed than allowed")
    assert len((images.parent / "report.txt").read_text().splitlines()) == 3
    case.check("named, replaced, counted over all workers; the list is in the report")
