# SPDX-License-Identifier: Apache-2.0
"""`beitv2 look`, and the views of features in `beitv2 serve`, on small untrained runs."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.commands.serve import build_views
from beitv2_core.data.views.transforms import normalise
from beitv2_core.errors import CheckpointError, ConfigError, ShapeError
from beitv2_core.exported_model import Description, Exported
from beitv2_core.inference import loaded
from beitv2_core.inference.embed import embed_files
from beitv2_core.inference.loaded import load_model
from beitv2_core.viz import attention as viz_attention
from beitv2_core.viz import features as viz_features


def look(*arguments, code=0) -> str:
    result = CliRunner().invoke(cli.app, ["look", *map(str, arguments)])
    try:
        output = result.output + result.stderr
    except ValueError:
        output = result.output
    assert result.exit_code == code, output
    return " ".join(output.split())


@pytest.fixture
def drawn(monkeypatch):
    """What the command gave to the figures, by the figure's name; nothing is drawn."""
    seen = {}
    for module, name in ((viz_features, "feature_components"), (viz_features, "similarity_maps"),
                         (viz_attention, "attention_maps")):
        monkeypatch.setattr(module, name, lambda *given, _name=name, **options: seen.update({_name: (given, options)}))
    return seen


@pytest.fixture
def exported(pretraining_run, tmp_path, monkeypatch):
    """The features of the run as a folder that is read as an exported model."""
    model = load_model(pretraining_run)
    folder = tmp_path / "exported"
    folder.mkdir()

    def run(images):
        return [model.features(images), model.features(images, what="patches")]

    description = Description(kind="features", format="onnx", image_size=model.image_size, crop_share=0.875,
                              outputs=("mean", "patches"), grid=model.grid)
    (folder / "model.json").write_text(description.as_json())
    (folder / "graph.onnx").touch()
    monkeypatch.setattr(loaded, "load_exported", lambda source, runtime, precision: Exported(
        folder, description, run, runtime="onnxruntime", precision=precision))
    return folder


def test_three_pictures_are_written(pretraining_run, photographs, tmp_path):
    said = look(photographs, "--model", pretraining_run, "-o", tmp_path / "new", "--limit", 2)
    assert "2 of 7 images are drawn (--limit 2)" in said
    names = ["attention.png", "components.png", "similarity.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    for name in names:
        assert str(tmp_path / "new" / name) in said
        assert np.asarray(Image.open(tmp_path / "new" / name).convert("RGB")).std() > 5


def test_pictures_show_the_features_of_the_block_and_the_size_that_are_asked_for(pretraining_run, photographs, tmp_path,
                                                                                drawn):
    paths = sorted(photographs.iterdir())[:3]
    look(*paths, "-m", pretraining_run, "-o", tmp_path, "--block", 2, "--image-size", 64, 32, "--patch", 8, 1)
    model = load_model(pretraining_run, image_size=(64, 32))
    features = model.features(paths, what="patches", block=2).reshape(3, 8, 4, -1)
    (pixels, components, _), _ = drawn["feature_components"]
    np.testing.assert_array_equal(pixels, model.preprocess(paths))
    np.testing.assert_array_equal(components.colours, viz_features.component_colours(features).colours)
    (_, maps, patches, _), _ = drawn["similarity_maps"]
    assert patches == [(7, 0)] * 3
    np.testing.assert_array_equal(maps, viz_features.patch_similarity(features, patches))
    (_, heads, _), options = drawn["attention_maps"]
    np.testing.assert_array_equal(heads, model.attention(paths, block=2))
    assert options == {"block": 2}


def test_attention_is_the_class_tokens_row_of_the_map(pretraining_run, photographs):
    model = load_model(pretraining_run)
    images = model.preprocess(sorted(photographs.iterdir())[:2])
    with paddle.no_grad():
        maps = model.backbone.last_attention(paddle.to_tensor(normalise(images))).numpy()
    np.testing.assert_array_equal(model.attention(images).reshape(2, -1, 16), maps[:, :, 0, 1:])
    with pytest.raises(ShapeError, match="block 9"):
        model.attention(images, block=9)


def test_a_point_of_the_file_chooses_the_patch_that_shows_it(pretraining_run, tmp_path, drawn):
    pixels = np.zeros((100, 60, 3), dtype=np.uint8)
    pixels[33:35, 10:12] = 255  # the model sees x from 3 to 57 and y from 23 to 77
    Image.fromarray(pixels).save(tmp_path / "dot.png")
    look(tmp_path / "dot.png", "-m", pretraining_run, "-o", tmp_path, "--at", 11, 34)
    (seen, _, patches, _), _ = drawn["similarity_maps"]
    bright = np.unravel_index(seen[0].mean(0).argmax(), seen.shape[2:])
    assert patches == [(bright[0] // 8, bright[1] // 8)]
    said = look(tmp_path / "dot.png", "-m", pretraining_run, "-o", tmp_path, "--at", 11, 90, code=2)
    assert "the model sees x from 3 to 57 and y from 23 to 77" in said


def test_of_an_exported_model_the_attention_is_left_out_and_that_is_said(exported, pretraining_run, photographs,
                                                                          tmp_path, drawn):
    assert "an exported model gives no attention" in look(photographs, "-m", exported, "-o", tmp_path, "--across")
    assert set(drawn) == {"feature_components", "similarity_maps"}
    (_, components, _), _ = drawn["feature_components"]
    look(photographs, "-m", pretraining_run, "-o", tmp_path)
    np.testing.assert_array_equal(components.colours, drawn["feature_components"][0][1].colours)
    with pytest.raises(ConfigError, match="no attention"):
        load_model(exported).attention(np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize(("options", "words"), [
    (["--patch", 5, 1], "--patch 5 1: an image has 4 rows and 4 columns of patches"),
    (["--patch", 0, 1], "Give numbers from 1 1 to 4 4"),
    (["--patch", 1, 1, "--at", 3, 3], "--patch and --at both choose the patch"),
    (["--block", 9], "--block 9: this model has the blocks 1 .. 3"),
    (["--image-size", 33, 33], "--image-size 33,33: no whole number of patches"),
    (["--runtime", "openvino"], "is no exported model"),
    (["--max-pixels", 9], "data.max_pixels"),
])
def test_what_cannot_be_drawn_is_said_and_nothing_is_written(pretraining_run, photographs, tmp_path, options, words):
    assert words in look(photographs, "-m", pretraining_run, "-o", tmp_path / "out", *options, code=2)
    assert not (tmp_path / "out").exists()


def test_a_pretrained_backbone_is_served_with_its_features_live_and_exported(pretraining_run, exported, caplog):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 40, 3)).astype(np.uint8))
    (live,), (graph,) = (build_views(str(source), None, None, None, 0) for source in (pretraining_run, exported))
    assert f"{pretraining_run}: no codes are shown" in caplog.text  # its tokenizer is not there
    assert live.name == graph.name == "features"
    shown, without = live.show(image), graph.show(image)
    assert (shown.rows, shown.columns, len(shown.attention), without.attention) == (4, 4, 3, [])
    assert without.components == shown.components and without.similarity == shown.similarity


@pytest.mark.parametrize("ending", [".npz", ".csv"])
def test_the_nearest_images_of_a_file_of_features_are_served(pretraining_run, tokenizer_run, photographs, tmp_path,
                                                             ending):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    paths = [str(path) for path in sorted(photographs.iterdir())]
    output = tmp_path / f"features{ending}"
    list(embed_files(load_model(pretraining_run), paths, output))
    views = build_views(str(pretraining_run), None, None, None, 0, embeddings=output)
    assert [view.name for view in views] == ["features", "neighbours"]
    result = views[1].show(Image.open(paths[3]))
    assert (result.neighbours[0].name, result.images, len(result.neighbours)) == ("3.png", 7, 7)
    assert result.neighbours[0].similarity == pytest.approx(1, abs=1e-5)
    assert all(one.image for one in result.neighbours)
    with pytest.raises(CheckpointError, match="not the model that made the features"):
        build_views(str(tokenizer_run), None, None, None, 0, embeddings=output)


def test_codes_of_a_tokenizer_stand_beside_the_features(pretraining_run, tokenizer_run):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    views = build_views(str(pretraining_run), str(tokenizer_run), None, None, 0)
    assert [view.name for view in views] == ["features", "codes"]


def test_features_are_served_at_the_size_that_is_asked_for_and_of_others_the_size_is_refused(pretraining_run,
                                                                                             tokenizer_run):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    (view,) = build_views(str(pretraining_run), None, None, None, 0, image_size=(64, 32))
    shown = view.show(Image.new("RGB", (20, 30), "red"))
    assert (shown.rows, shown.columns) == (8, 4)
    with pytest.raises(ConfigError, match="--image-size 64 32: it is for the features"):
        build_views(str(tokenizer_run), None, None, None, 0, image_size=(64, 32))
