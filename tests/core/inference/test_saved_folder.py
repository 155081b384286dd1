# SPDX-License-Identifier: Apache-2.0
"""A loaded model answers, is saved as a folder, and the folder gives the same answers to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from untrained_runs import pretraining

import beitv2_core
from beitv2_core.conversion.convert import convert_file
from beitv2_core.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def paths(photographs):
    return sorted(map(str, photographs.glob("*.png")))


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Pretrained without the head on the class token, which transformers has not."""
    return pretraining(tmp_path_factory.mktemp("plain") / "run", "model.early_layers=null")


@pytest.mark.parametrize(("which", "size", "form"), [
    ("plain_run", None, "huggingface"), ("plain_run", 48, "huggingface"), ("plain_run", (32, 64), "ours"),
    ("pretraining_run", None, "ours"), ("tokenizer_run", None, "ours")])
def test_a_saved_folder_gives_the_same_outputs_to_the_bit(request, tmp_path, paths, which, size, form):
    model = beitv2_core.load(request.getfixturevalue(which), image_size=size)
    assert model.save_pretrained(tmp_path) == form
    again = beitv2_core.load(tmp_path)
    assert (again.kind, again.image_size, again.grid) == (model.kind, model.image_size, model.grid)
    np.testing.assert_array_equal(again(paths), model(paths))
    for block in (None, 1):
        np.testing.assert_array_equal(again.features(paths, what="patches", block=block),
                                      model.features(paths, what="patches", block=block))


def test_a_folder_written_over_another_one_is_the_new_model(tmp_path, plain_run, tokenizer_run, paths):
    beitv2_core.load(plain_run).save_pretrained(tmp_path)
    model = beitv2_core.load(tokenizer_run)
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(beitv2_core.load(tmp_path)(paths), model(paths))


def test_a_tokenizer_answers_with_a_code_for_every_patch(tokenizer_run, paths):
    model = beitv2_core.load(tokenizer_run)
    codes = model(paths)
    assert codes.shape == (7, 4, 4) and codes.dtype == np.int64
    np.testing.assert_array_equal(beitv2_core.tokenize(paths, tokenizer_run).codes, codes)
    np.testing.assert_array_equal(model(paths[0]), codes[:1])


def test_a_changed_crop_of_features_is_kept(tmp_path, pretraining_run, paths):
    model = beitv2_core.load(pretraining_run)
    model.crop_share = 0.5
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(beitv2_core.load(tmp_path).features(paths), model.features(paths))


def test_a_converted_folder_says_how_images_are_cut_and_scaled(tmp_path, plain_run):
    convert_file(plain_run, tmp_path / "hub", "huggingface")
    found = json.loads((tmp_path / "hub/preprocessor_config.json").read_text(encoding="utf-8"))
    assert found["size"] == {"shortest_edge": 36} and found["crop_size"] == {"height": 32, "width": 32}
    assert found["image_mean"] == [0.485, 0.456, 0.406] and found["do_normalize"] and found["resample"] == 3


def test_a_damaged_preprocessor_names_its_file(tmp_path, pretraining_run):
    beitv2_core.load(pretraining_run).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"beitv2": {"crop_share": "half"}}')
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: cannot be read: .*Copy the folder again"):
        beitv2_core.load(tmp_path)


def test_an_exported_model_is_not_saved_again(tmp_path, tokenizer_run, paths):
    exported = beitv2_core.export(tokenizer_run, "paddle", tmp_path / "exported")
    model = beitv2_core.load(exported.folder)
    np.testing.assert_array_equal(model(paths), beitv2_core.load(tokenizer_run)(paths))
    with pytest.raises(ConfigError, match="an exported model cannot be saved again"):
        model.save_pretrained(tmp_path / "saved")
