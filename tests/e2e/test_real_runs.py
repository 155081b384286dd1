# SPDX-License-Identifier: Apache-2.0
"""`make real` on made frames in CamVid's layout: all parts, a kill of everything while one trains, the same command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from e2e_runs import ROOT
from PIL import Image

pytestmark = pytest.mark.slow
SHORT = [f"{stage}.{key}" for stage in ("tokenizer", "pretrain")
         for key in ("data.image_size=32", "optim.warmup_steps=1", "train.batch_size=4", "train.save_every=4")]
CHANGES = [*SHORT, "tokenizer.optim.steps=2", "tokenizer.health={unquantized_steps: 1, kmeans_batches: 1}",
           "tokenizer.quantizer={num_codes: 8, kmeans_iters: 2}", "tokenizer.encoder={width: 24, depth: 1}",
           "tokenizer.decoder.width=24", "pretrain.optim.steps=60", "pretrain.model.width=24",
           "pretrain.train.log_every=1", "pretrain.mask={num_masked: 6, min_block: 2}", "report.images=8",
           "seg.iters=2", "seg.lr_scheduler.warmup=1", "seg.batch_size=2", "seg.model.channels=8",
           "seg.model.aux_channels=4"]


def frames(folder: Path) -> None:
    draws = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind, high, shape in (("images", 256, (160, 200, 3)), ("annotations", 12, (160, 200))):
            (folder / kind / part).mkdir(parents=True)
            for number in range(8):
                pixels = draws.integers(0, high, shape).astype(np.uint8)
                Image.fromarray(pixels).save(folder / kind / part / f"{number}.png")


def test_a_killed_series_ends_as_if_it_had_not_been_and_repeats_nothing(tmp_path):
    frames(tmp_path / "camvid_jpg")
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "benchmarks" / "real_runs.py"), str(tmp_path), "-o", str(out), "--sets",
               "camvid", "--teachers", "hog", "--seeds", "1", "--set", *CHANGES]
    series = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    note = out / "parts" / "camvid_pretrain_hog.json"
    deadline = time.monotonic() + 300
    while not list((out / "camvid" / "pretrain_hog" / "checkpoints").glob("step_*.pdckpt")):
        assert series.poll() is None and time.monotonic() < deadline, "the pretraining did not begin"
        time.sleep(0.05)
    series.kill()
    os.killpg(json.loads(note.read_text())["group"], signal.SIGKILL)
    series.communicate()
    assert not json.loads(note.read_text())["finished"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/5] camvid/tokenizer_hog: finished before" in done.stdout
    assert "[2/5] camvid/pretrain_hog: continues" in done.stdout and "5 of 5 parts are finished" in done.stdout
    log = (out / "logs" / "camvid" / "pretrain_hog.log").read_text()
    assert log.count("steps: 60") == 2 and log.count(" step 1/60 ") == 1  # two starts, the second goes on
    found = json.loads((out / "results.json").read_text())
    assert [row["what"] for row in found["rows"]][-2:] == ["mIoU", "classes predicted"] and not found["failed"]
    assert set(found["seconds"]) == {f"camvid/{name}" for name in ("tokenizer_hog", "pretrain_hog", "report_hog",
                                                                   "look_hog", "segment_hog_seed0")}
    page = (out / "page" / "README.md").read_text()
    for picture in ("report_hog/code_gallery", "look_hog/components", "segment_hog_seed0/compare"):
        assert f"(camvid/{picture}.png)" in page and (out / "page" / "camvid" / f"{picture}.png").is_file()
    assert "CC BY-NC 4.0" in page
