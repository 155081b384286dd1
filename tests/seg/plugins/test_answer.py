# SPDX-License-Identifier: Apache-2.0
"""A loaded segmentor answers as `predict` does, from a run and from a saved folder."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image
from seg_runs import TINY

import beitv2_core
import beitv2_seg
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.data import DigitScenes
from beitv2_seg.assembly.models import build_model
from beitv2_seg.config import read_config_file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answer")
    config = read_config_file("digit_scenes", opts=[*TINY, "test_config.aug_eval=true",
                                                    "test_config.flip_horizontal=true"])
    paddle.seed(0)
    weights = {key: value.numpy() for key, value in build_model(config, pretrained=False).state_dict().items()}
    CheckpointStore(folder / "run/checkpoints").save(0, weights, {}, {}, config.resolved())
    (folder / "images").mkdir()
    DigitScenes("test", size=1, image_size=96).load(0).image.resize((80, 70)).save(folder / "images/a.png")
    return folder


def test_label_maps_and_class_names_are_those_that_predict_writes(made, tmp_path):
    written = beitv2_seg.predict(made / "run", made / "images", tmp_path, num_workers=0)
    found = beitv2_core.load(made / "run")(made / "images/a.png")
    assert found.classes == written.classes and found.labels[0].shape == (70, 80)
    np.testing.assert_array_equal(found.labels[0], np.asarray(Image.open(written.images[0].labels)))


def test_a_saved_folder_answers_to_the_bit(made, tmp_path):
    model = beitv2_core.load(made / "run")
    assert model.save_pretrained(tmp_path) == "ours"
    again = beitv2_core.load(tmp_path)
    np.testing.assert_array_equal(again(made / "images/a.png").labels, model(made / "images/a.png").labels)
    assert again(made / "images/a.png").classes == model(made / "images/a.png").classes
