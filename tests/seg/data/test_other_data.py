# SPDX-License-Identifier: Apache-2.0
"""What tells the training images of a stopped segmentation run from others of the same number."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data.sources.identity import identity
from beitv2_seg.assembly import FREE_SETTINGS
from beitv2_seg.data.dataset import TrainSamples


def samples(folder, *, first=0, label=0, names="abc"):
    files = []
    for number, name in enumerate(names, first):
        pair = [folder / "img" / f"{name}.png", folder / "ann" / f"{name}.png"]
        for path in pair:
            path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pair[0])
        Image.fromarray(np.full((9, 9), label, dtype=np.uint8)).save(pair[1])
        files.append([str(path) for path in pair])
    return of_files(files)


def of_files(files):
    return TrainSamples(type("Files", (), {"file_list": files, "__len__": lambda self: len(files)})(), num_classes=2)


def test_moved_images_are_the_same(tmp_path):
    before = samples(tmp_path / "one")
    told = identity(before)
    shutil.move(tmp_path / "one", tmp_path / "moved")
    files = [[path.replace("/one/", "/moved/") for path in pair] for pair in before.dataset.file_list]
    assert identity(of_files(files)) == told


@pytest.mark.parametrize("changes", [{"first": 7}, {"label": 1}, {"names": "abd"}],
                         ids=["other images", "other labels", "other names"])
def test_others_of_the_same_number_are_told(tmp_path, changes):
    assert identity(samples(tmp_path / "one")) != identity(samples(tmp_path / "other", **changes))


def test_a_resumed_run_may_be_told_to_go_on_with_others():
    assert {"run.other_data", "train_dataset.dataset_root"} <= set(FREE_SETTINGS)
