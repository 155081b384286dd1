# SPDX-License-Identifier: Apache-2.0
"""A loaded classifier answers as `predict` does, from a run, a saved folder and an export."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from cls_runs import CONFIG

import beitv2_cls
import beitv2_core
from beitv2_cls.assembly import build_classifier
from beitv2_cls.config import FinetuneConfig
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import load_config
from beitv2_core.conversion.convert import convert_file
from beitv2_core.data import DigitScenes

CLASSES = ["cat", "dog", "a fox"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An untrained run whose validation crop is not the usual one, and images."""
    folder = tmp_path_factory.mktemp("answer")
    settings = load_config(CONFIG, ["model.width=24", "pretrained.weights=null", "validation.crop_share=0.6",
                                    f"output={folder / 'run'}"], FinetuneConfig)
    paddle.seed(1)
    state = build_classifier(settings, 3).state_dict()
    weights = {key: value.numpy() + np.float32(0.1) for key, value in state.items()}
    CheckpointStore(folder / "run/checkpoints").save(0, weights, {}, {"task": {"classes": CLASSES}},
                                                     settings.resolved())
    for number in range(4):
        path = folder / f"images/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        DigitScenes("test", size=4, image_size=48).load(number).image.save(path)
    return folder


def test_the_answer_has_the_probabilities_that_predict_gives(made):
    found = beitv2_core.load(made / "run")([str(path) for path in sorted(made.glob("images/*/*.png"))])
    expected = beitv2_cls.predict(made / "run", made / "images", top=3)
    for row, one in zip(found.probabilities, expected):
        assert [found.classes[i] for i in np.argsort(-row, kind="stable")] == [name for name, _ in one.classes]
        np.testing.assert_allclose(sorted(row, reverse=True), [share for _, share in one.classes], rtol=1e-6)


def test_a_saved_folder_answers_to_the_bit_with_its_class_names_in_every_function(made, tmp_path):
    model, images = beitv2_core.load(made / "run"), sorted(map(str, made.glob("images/*/*.png")))
    assert model.save_pretrained(tmp_path) == "huggingface"
    again = beitv2_core.load(tmp_path)
    for one, other in zip(again(images), model(images)):
        np.testing.assert_array_equal(one, other)
    assert again.classes == CLASSES
    assert beitv2_cls.predict(tmp_path, made / "images") == beitv2_cls.predict(made / "run", made / "images")
    np.testing.assert_array_equal(again.features(images), model.features(images))


def test_a_converted_folder_carries_class_names_and_the_crop_of_the_validation(made, tmp_path):
    convert_file(made / "run", tmp_path / "hub", "huggingface")
    assert json.loads((tmp_path / "hub/config.json").read_text())["id2label"]["2"] == "a fox"
    assert json.loads((tmp_path / "hub/preprocessor_config.json").read_text())["size"] == {"shortest_edge": 53}
    images = sorted(map(str, made.glob("images/*/*.png")))
    assert not np.array_equal(beitv2_core.load(made / "run").preprocess(images),
                              beitv2_core.load(made / "run").preprocess(images, crop_share=0.6))
    np.testing.assert_array_equal(beitv2_core.load(tmp_path / "hub")(images).logits,
                                  beitv2_core.load(made / "run")(images).logits)
