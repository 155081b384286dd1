# SPDX-License-Identifier: Apache-2.0
"""A stopped run goes on with the images it was started with, wherever they lie now."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from beitv2_core.assembly import build_training
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import parse_config
from beitv2_core.data import ImageFolder
from beitv2_core.data.sources.shard_writer import write_shards
from beitv2_core.errors import DataError

TRUNK = {"width": 24, "depth": 1, "num_heads": 2}


def settings(tmp_path, root, dataset="folder", **train):
    return parse_config({
        "kind": "tokenizer", "output": str(tmp_path / "run"), "encoder": {**TRUNK, "patch_size": 4}, "decoder": TRUNK,
        "data": {"dataset": dataset, "root": str(root), "image_size": 16}, "quantizer": {"num_codes": 8, "code_dim": 4},
        "teacher": {"name": "hog"}, "optim": {"lr": 1e-3, "steps": 4}, "train": {"batch_size": 2, **train}})


def images(folder, *names, first=0):
    folder.mkdir()
    for number, name in enumerate(names, first):
        pixels = np.random.RandomState(number).randint(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def step(tmp_path):
    return CheckpointStore(tmp_path / "run/checkpoints").latest().name


@pytest.mark.parametrize("names", ["abce", "abcd"], ids=["other names", "the same names"])
@pytest.mark.parametrize("dataset", ["folder", "shards"])
def test_a_moved_folder_is_taken_another_one_of_the_same_size_is_refused(tmp_path, dataset, names):
    one, other = images(tmp_path / "one", *"abcd"), images(tmp_path / "other", *names, first=7)
    if dataset == "shards":
        for folder in (one, other):
            list(write_shards(ImageFolder(folder), tmp_path / f"{folder.name}_tar", per_shard=2, seed=None))
        one, other = tmp_path / "one_tar", tmp_path / "other_tar"
    build_training(settings(tmp_path, one, dataset)).run(stop_after=1)
    shutil.move(one, tmp_path / "moved")
    build_training(settings(tmp_path, tmp_path / "moved", dataset)).run(stop_after=1)
    with pytest.raises(DataError) as refused:
        build_training(settings(tmp_path, other, dataset)).run()
    assert "other images" in str(refused.value) and "train.other_data=true" in str(refused.value)
    assert step(tmp_path) == "step_000002.pdckpt"
    build_training(settings(tmp_path, other, dataset, other_data=True)).run()
    assert step(tmp_path) == "step_000004.pdckpt"
