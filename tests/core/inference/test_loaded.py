# SPDX-License-Identifier: Apache-2.0
"""One model with its preprocessing, from any source."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image
from untrained_runs import pretraining

from beitv2_core.assembly import load_mim, load_tokenizer
from beitv2_core.assembly.transfer import resize_pos_embed
from beitv2_core.conversion.convert import convert_file
from beitv2_core.data import ImageFiles, eval_batches
from beitv2_core.data.views.transforms import normalise
from beitv2_core.errors import BEiTError, ConfigError, DataError, ShapeError
from beitv2_core.evaluation.codes import encode
from beitv2_core.evaluation.evaluate import pooled_features
from beitv2_core.export.sources import exportable_features
from beitv2_core.exported_model import Description, Exported
from beitv2_core.inference import loaded
from beitv2_core.inference.loaded import load_model
from beitv2_core.weights.remap import resize_rel_pos_bias

PATHS = [f"{index}.png" for index in range(7)]


@pytest.fixture(scope="module")
def paths(photographs):
    return [str(photographs / name) for name in PATHS]


@pytest.mark.parametrize("what", ["mean", "cls"])
def test_features_of_a_pretraining_run_are_those_that_knn_measures(pretraining_run, paths, what):
    model = load_model(pretraining_run)
    batches = eval_batches(ImageFiles(paths), model.image_size, crop_share=0.875)
    expected, _ = pooled_features(load_mim(pretraining_run)[0], batches, what)
    np.testing.assert_array_equal(model.features(paths, what=what), expected)
    assert (model.kind, model.image_size, model.grid) == ("pretraining", (32, 32), (4, 4))


def test_a_block_gives_its_raw_output_and_the_last_one_what_is_given_without_a_block(pretraining_run, paths):
    model = load_model(pretraining_run)
    images = model.preprocess(paths)
    with model.backbone.intermediates("block01") as out, paddle.no_grad():
        model.backbone.forward_tokens(paddle.to_tensor(normalise(images)))
    found = model.features(images, what="patches", block=2)
    np.testing.assert_allclose(found, out["block01"][:, 1:].numpy(), atol=1e-5)
    np.testing.assert_array_equal(model.features(images, block=model.backbone.depth), model.features(images))


def test_files_pictures_and_arrays_give_the_same(pretraining_run, paths):
    model = load_model(pretraining_run)
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    expected = model.preprocess(paths)
    assert expected.dtype == np.float32 and expected.shape == (7, 3, 32, 32) and 0 <= expected.min() < expected.max()
    np.testing.assert_array_equal(model.preprocess(pictures), expected)
    np.testing.assert_array_equal(model.preprocess(arrays), expected)
    np.testing.assert_array_equal(model.preprocess(paths[3]), expected[3:4])


def test_a_tokenizer_gives_its_codes_and_the_tokens_of_its_encoder(tokenizer_run, paths):
    model, tokenizer = load_model(tokenizer_run), load_tokenizer(tokenizer_run)
    images = model.preprocess(paths)
    np.testing.assert_array_equal(model.features(images, what="codes"), encode(tokenizer, images))
    tokens = tokenizer.encoder.patch_tokens(tokenizer.preprocess(paddle.to_tensor(images))).numpy()
    np.testing.assert_allclose(model.features(images, what="patches"), tokens, atol=1e-6)


def test_position_tables_are_resized_as_for_fine_tuning(pretraining_run, tokenizer_run, paths):
    plain, other = load_model(pretraining_run), load_model(pretraining_run, image_size=(24, 48))
    name = "rel_pos_bias.relative_position_bias_table"
    np.testing.assert_array_equal(other.model.state_dict()[name].numpy(),
                                  resize_rel_pos_bias(plain.model.state_dict()[name].numpy(), (4, 4), (3, 6)))
    assert other.features(paths, what="patches").shape == (7, 18, 24)
    plain, other = load_model(tokenizer_run), load_model(tokenizer_run, image_size=(16, 64))
    table = plain.backbone.pos_embed.numpy()
    np.testing.assert_array_equal(other.backbone.pos_embed.numpy(), resize_pos_embed(table, plain.grid, other.grid))
    rows, columns = other.grid
    assert rows * columns == plain.grid[0] * plain.grid[1], "as many patches in another shape"
    assert other.features(paths, what="codes").shape == (7, rows * columns)


def test_a_converted_file_gives_what_its_run_gives(pretraining_run, paths, tmp_path):
    convert_file(pretraining_run, tmp_path / "model.safetensors", "ours")
    np.testing.assert_array_equal(load_model(tmp_path / "model.safetensors").features(paths),
                                  load_model(pretraining_run).features(paths))


def test_an_exported_model_gives_the_features_of_its_graph(pretraining_run, paths, tmp_path, monkeypatch):
    live = load_model(pretraining_run)
    graph = exportable_features(live.backbone)
    description = Description(format="onnx", **graph.facts)

    def computed(images):
        with paddle.no_grad():
            return [out.numpy() for out in graph.graph(paddle.to_tensor(images))]

    monkeypatch.setattr(loaded, "is_exported", lambda source: True)
    monkeypatch.setattr(loaded, "load_exported", lambda source, runtime, precision: Exported(
        tmp_path, description, computed, runtime="onnxruntime", precision=precision))
    model = load_model(tmp_path)
    images = model.preprocess(paths)
    np.testing.assert_array_equal(images, live.preprocess(paths))
    with paddle.no_grad():
        expected = live.backbone.patch_tokens(paddle.to_tensor(normalise(images))).numpy()
    np.testing.assert_array_equal(model.features(images, what="patches"), expected)
    assert (model.kind, model.grid, model.exported, model.runtime) == ("features", (4, 4), True, "onnxruntime")
    for wrong in ({"what": "cls"}, {"what": "codes"}, {"block": 1}):
        with pytest.raises(ConfigError, match="exported|no codes"):
            model.features(images, **wrong)
    with pytest.raises(ConfigError, match="exported for images of 32 x 32"):
        load_model(tmp_path, image_size=64)


def test_published_names_are_looked_up_in_the_cache(pretraining_run, paths, tmp_path, monkeypatch):
    monkeypatch.setenv("BEITV2_CACHE", str(tmp_path))
    with pytest.raises(BEiTError, match="Type: beitv2 download beitv2_base_patch16_224_pt1k$"):
        load_model("beitv2_base_patch16_224_pt1k")
    with pytest.raises(BEiTError, match="Did you mean beitv2_base_patch16_224_pt1k"):
        load_model("beitv2_base_patch16_224_pt1")
    convert_file(pretraining_run, tmp_path / "beitv2_base_patch16_224_pt1k.safetensors", "ours")
    assert load_model("beitv2_base_patch16_224_pt1k").features(paths[:1]).shape == (1, 24)


def test_what_does_not_go_is_told_before_an_image_is_read(pretraining_run, tokenizer_run, paths, tmp_path):
    with pytest.raises(ConfigError, match="no whole number of patches of 8 x 8"):
        load_model(pretraining_run, image_size=(30, 32))
    with pytest.raises(ConfigError, match="--runtime onnxruntime.*beitv2 export"):
        load_model(pretraining_run, runtime="onnxruntime")
    with pytest.raises(ConfigError, match="--precision f16: expected one of"):
        load_model(pretraining_run, precision="f16")
    with pytest.raises(BEiTError, match="no such run folder"):
        load_model(tmp_path / "nothing")
    model = load_model(pretraining_run)
    with pytest.raises(ConfigError, match="a pretraining model has no codes"):
        model.check("codes")
    with pytest.raises(ShapeError, match=r"blocks 1 \.\. 3"):
        model.check("mean", 7)
    with pytest.raises(ShapeError, match="expected \\(images, 3, 32, 32\\)"):
        model.features(np.zeros((1, 3, 16, 16), np.float32))
    with pytest.raises(ShapeError, match="expected uint8"):
        model.preprocess(np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match="no.png"):
        model.preprocess(tmp_path / "no.png")


def test_relative_positions_of_every_block_are_resized(tmp_path, paths):
    run = pretraining(tmp_path / "run", "model.positions=relative")
    assert load_model(run, image_size=(16, 40)).features(paths, what="patches").shape == (7, 10, 24)
