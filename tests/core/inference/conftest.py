# SPDX-License-Identifier: Apache-2.0
"""Untrained runs of both stages, and photographs of several sizes."""

from __future__ import annotations

import pytest
from untrained_runs import pretraining, tokenizer

from beitv2_core.data import DigitScenes


@pytest.fixture(scope="session")
def pretraining_run(tmp_path_factory):
    return pretraining(tmp_path_factory.mktemp("features") / "pretrain")


@pytest.fixture(scope="session")
def tokenizer_run(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("features") / "tokenizer")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Seven files, among them two grey ones."""
    folder = tmp_path_factory.mktemp("photographs")
    scenes = DigitScenes("test", size=7, image_size=40)
    for index in range(7):
        image = scenes.load(index).image.resize((40 + 9 * index, 52))
        (image.convert("L") if index > 4 else image).save(folder / f"{index}.png")
    return folder
