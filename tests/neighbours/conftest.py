# SPDX-License-Identifier: Apache-2.0
"""A small fine-tuned classifier that other projects are given."""

from __future__ import annotations

import os
from pathlib import Path

# no test looks for a model on the network
os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402
from cls_runs import run  # noqa: E402

CONFIG = Path(__file__).resolve().parents[2] / "configs/cls/digit_scenes.yml"
TINY = ["model.width=24", "data.size=96", "train.batch_size=16", "validation.size=40", "optim.steps=20",
        "optim.warmup_steps=2", "pretrained.weights=null"]


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    run("finetune", CONFIG, "--set", *TINY, f"output={folder}")
    return folder
