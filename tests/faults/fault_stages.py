# SPDX-License-Identifier: Apache-2.0
"""The four trainings of the suite, seconds long, and what makes two of their run folders equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from e2e_runs import CONFIGS, PRETRAIN, SEGMENT, TOKENIZER, assert_same_end, placed

from beitv2_core.checkpoint.store import CheckpointStore

NAMES = ("tokenizer", "pretrain", "finetune", "segment")
FINETUNE = ["finetune", str(CONFIGS / "cls/digit_scenes.yml"), "--set", "model.width=24", "model.drop_path=0.1",
            "data.size=96", "validation.size=24", "validation.every_epochs=1", "optim.warmup_steps=2",
            "train.log_every=2", "augment.mixup=0.8", "augment.policy=rand-m9-mstd0.5-inc1", "ema_decay=0.9"]
#: written anew by every process, or holding times
FREE_FILES = ("environment.json", "summary.json", "metrics.jsonl", ".lock")


def stage(name: str, sources: Path, steps: int) -> list[str]:
    """A stage's command; `sources` holds the runs it starts from."""
    if name == "segment":
        return [*SEGMENT[:2], "--iters", str(steps), "--do_eval", "--use_ema", *SEGMENT[2:]]
    short = [f"optim.steps={steps}", "train.batch_size=16", "train.keep_last=3"]
    if name == "tokenizer":
        return [*TOKENIZER, *short]
    if name == "pretrain":
        return [*PRETRAIN, *short, f"tokenizer.weights={sources}/tokenizer", "model.drop_path=0.2"]
    return [*FINETUNE, *short, f"pretrained.weights={sources}/pretrain"]


def make_sources(warm: Any, folder: Path) -> Path:
    """Small runs of the first two stages."""
    for name in ("tokenizer", "pretrain"):
        warm.run(folder / f"{name}.log", placed(stage(name, folder, 8), folder / name, 4))
    return folder


def steps_present(folder: Path) -> list[int]:
    """Steps of a run's checkpoints, oldest first."""
    return CheckpointStore(folder / "checkpoints").steps()


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics without the rates of this machine."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def leftovers(folder: Path) -> list[Path]:
    """Files under temporary names."""
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


def assert_same_run(one: Path, other: Path) -> None:
    """Newest checkpoint, metrics, results and other files are equal to the bit; nothing has a temporary name."""
    assert_same_end(one, other)
    np.testing.assert_equal(metrics(one), metrics(other))
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    np.testing.assert_equal(a.get("final"), b.get("final"))
    assert a["steps"] == b["steps"]
    assert files(one) == files(other)
    for name in files(one):
        if name.suffix in (".pdparams", ".json") and name.name not in FREE_FILES:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert leftovers(other) == []


def files(folder: Path) -> set[Path]:
    """What a run folder holds, but checkpoints (a signal saves at other steps) and VisualDL's file per process."""
    return {path.relative_to(folder) for path in folder.rglob("*")
            if path.is_file() and not {"visualdl", "checkpoints"} & set(path.parts)}
