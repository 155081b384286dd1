# SPDX-License-Identifier: Apache-2.0
"""Training does what it is for: the loss falls, codes are used, and a bad file does not end a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from e2e_runs import PRETRAIN, TOKENIZER, beitv2, final, finished

from beitv2_core.data import DigitScenes

pytestmark = pytest.mark.slow


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tokenizer_training_lowers_the_loss_and_keeps_every_code_in_use(tmp_path):
    finished(beitv2(*TOKENIZER, "optim.steps=80", "train.batch_size=32", "data.size=320",
                    "health.unquantized_steps=40", f"output={tmp_path}"))
    lines = metrics(tmp_path)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["usage"] == 1.0
    assert lines[-1]["perplexity"] > 8


def test_pretraining_lowers_the_loss_of_both_heads(tokenizer_run, tmp_path):
    finished(beitv2(*PRETRAIN, f"tokenizer.weights={tokenizer_run}", "optim.steps=100", "train.batch_size=32",
                    "data.size=320", f"output={tmp_path}"))
    lines = metrics(tmp_path)
    for head in ("mim", "cls"):
        first, last = (np.mean([line[f"loss_{head}"] for line in part]) for part in (lines[:5], lines[-5:]))
        assert last < 0.95 * first, head
        assert lines[-1][f"acc_{head}"] > 2 / 16


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    scenes = DigitScenes("train", size=40, image_size=40)
    for index in range(len(scenes)):
        scenes.load(index).image.save(folder / f"{index:02d}.png")
    (folder / "07.png").write_bytes(b"not an image")
    return folder


def folder_settings(images, output):
    return [*TOKENIZER, "data.dataset=folder", f"data.root={images}", "data.size=null", "train.batch_size=8",
            "optim.steps=10", "data.num_workers=2", f"output={output}"]


def test_a_corrupt_image_is_named_and_replaced(images, tmp_path):
    output = finished(beitv2(*folder_settings(images, tmp_path / "run"), "data.max_corrupt=0.1"))
    assert "07.png" in output
    assert final(tmp_path / "run").step == 10


def test_too_many_corrupt_images_stop_the_run_with_the_list_in_a_file(images, tmp_path):
    for name in ("11.png", "12.png", "13.png"):
        (images / name).write_bytes(b"")
    output = finished(beitv2(*folder_settings(images, tmp_path / "run"), "data.max_corrupt=0.05"), code=2)
    report = tmp_path / "run" / "corrupt_files.txt"
    assert str(report) in output
    listed = report.read_text()
    assert sum(name in listed for name in ("07.png", "11.png", "12.png", "13.png")) >= 2
