# SPDX-License-Identifier: Apache-2.0
"""Runs of both stages as they are before the first update."""

from __future__ import annotations

from pathlib import Path

from beitv2_core.assembly.batches import seed_everything
from beitv2_core.assembly.models import build_mim, build_tokenizer
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import load_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def untrained(folder: Path, config: str, build, *changes: str) -> Path:
    settings = load_config(CONFIGS / config, [f"output={folder}", *changes])
    seed_everything(0)
    model = build(settings)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    CheckpointStore(folder / "checkpoints").save(0, weights, {}, {}, settings.resolved())
    return folder


def pretraining(folder: Path, *changes: str) -> Path:
    return untrained(folder, "pretrain/digit_scenes.yml",
                     lambda settings: build_mim(settings.model, image_size=settings.data.image_size, num_codes=64),
                     "model.width=24", "tokenizer.weights=none", *changes)


def tokenizer(folder: Path, *changes: str) -> Path:
    return untrained(folder, "tokenizer/digit_scenes.yml",
                     lambda settings: build_tokenizer(settings, teacher_width=16), "encoder.width=24",
                     "decoder.width=24", "quantizer.kmeans_init=false", "health.unquantized_steps=0", *changes)
