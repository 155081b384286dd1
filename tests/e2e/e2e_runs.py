# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: short settings of both methods, their commands, and what a run left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import beitv2_core  # noqa: F401  before paddle
from beitv2_core.checkpoint.store import Checkpoint, CheckpointStore

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SHORT = ["data.size=96", "data.image_size=32", "optim.warmup_steps=2", "train.log_every=2"]
TOKENIZER = ["train-tokenizer", str(CONFIGS / "tokenizer/digit_scenes.yml"), "--set", *SHORT,
             "encoder.width=24", "encoder.depth=1", "decoder.width=24", "quantizer.num_codes=16",
             "health.unquantized_steps=4", "health.kmeans_batches=2", "health.revive_after=3"]
PRETRAIN = ["pretrain", str(CONFIGS / "pretrain/digit_scenes.yml"), "--set", *SHORT, "model.width=24"]

SEGMENT = ["segment", "train", "--config", "digit_scenes", "--device", "cpu", "--resume_model", "auto", "--log_iters",
           "2", "--opts", "model.channels=8", "model.aux_channels=4", "model.backbone.width=12",
           "model.backbone.num_heads=2", "model.backbone.pretrained=null", "model.backbone.drop_path=0.2",
           "train_dataset.size=48", "val_dataset.size=4", "lr_scheduler.warmup=2", "batch_size=4"]


def beitv2(*arguments: Any, **environment: str) -> subprocess.Popen:
    """Start the command line in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "beitv2_core.cli", *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})


def placed(command: list[str], folder: Path, save_every: int) -> list[str]:
    """A command's arguments with its run folder and the steps between checkpoints."""
    if command[0] == "segment":
        return [*command[:2], "--save_dir", str(folder), "--save_interval", str(save_every), *command[2:]]
    kept = [f"tokenizer.cache.path={folder / 'codes'}"] if "tokenizer.cache.views=2" in command else []
    return [*command, f"output={folder}", f"train.save_every={save_every}", *kept]


def finished(process: subprocess.Popen, code: int = 0) -> str:
    """The output of a process that must end with `code`."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def final(folder: Path) -> Checkpoint:
    """The newest checkpoint of a run."""
    store = CheckpointStore(folder / "checkpoints")
    return store.load(store.latest())


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, optimizer, generators, sampler position and task state are equal to the bit."""
    a, b = final(one), final(other)
    assert a.step == b.step
    for kind in ("weights", "optimizer"):
        left, right = getattr(a, kind), getattr(b, kind)
        assert set(left) == set(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    for part in ("rng", "loader", "task", "window"):
        np.testing.assert_equal(a.state[part], b.state[part])
