# SPDX-License-Identifier: Apache-2.0
"""Pooling as a product, and an exported segmenter that labels images of any size as the live one does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image
from random_segmentor import CLASSES, segmentor
from seg_runs import segment, train

from beitv2_core.commands.serve import build_views
from beitv2_core.exported_model import load_exported
from beitv2_core.exporting import export_model
from beitv2_seg.model.heads import AdaptiveAveragePool, resize
from beitv2_seg.plugins.export import exportable_segmentor
from beitv2_seg.reading.exported_segmenter import ExportedSegmenter
from beitv2_seg.reading.paddle_segmenter import PaddleSegmenter
from beitv2_seg.reading.windows import Windows, image_logits, predict_labels

missing = [name for name in ("paddle2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing) or paddle.__version__.startswith("2."),
                                reason=f"not installed: {missing}" if missing else "paddle2onnx needs Paddle 3")
FORMS = ["paddle", pytest.param("onnx", marks=needs_onnx)]
SLIDE = ("--is_slide", "--crop_size", "64", "64", "--stride", "43", "43")
WITHOUT_PADDLE = """
import sys

class NoPaddle:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "paddle":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPaddle())
from beitv2_core.cli import app
app(["segment", "predict", *sys.argv[1:]])
"""


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (5, 16), (3, 2), (1, 1)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pooling_by_a_product_has_the_values_and_gradients_of_adaptive_pooling(size, bins):
    x, weight = paddle.randn([2, 5, *size]), paddle.randn([2, 5, bins, bins])
    found = []
    for pool in (paddle.nn.AdaptiveAvgPool2D(bins), AdaptiveAveragePool(bins)):
        leaf = x.clone().detach()
        leaf.stop_gradient = False
        out = pool(leaf)
        (out * weight).sum().backward()
        found.append((out.numpy(), leaf.grad.numpy()))
    for theirs, ours in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_512_pixels_where_the_coarsest_map_is_no_multiple_of_the_bins(tmp_path, form):
    """16 x 16 to 6 x 6: the pooling that ONNX has no operator for."""
    model = segmentor(512, 16)
    description = export_model(exportable_segmentor(model, image_size=(512, 512), classes=CLASSES),
                               tmp_path / "model", form=form)
    assert all(value < 1e-4 for sizes in description.differences.values() for outputs in sizes.values()
               for value in outputs.values())
    with paddle.no_grad():
        assert float(model(paddle.randn([1, 3, 512, 512]))[0].std()) > 1e-2  # logits that a fault would show in


@pytest.mark.parametrize("form", FORMS)
def test_rectangular_windows_label_a_image_as_the_live_model_does(tmp_path, form):
    model = segmentor((64, 96))
    export_model(exportable_segmentor(model, image_size=(64, 96), classes=CLASSES), tmp_path / "model", form=form)
    loaded = load_exported(tmp_path / "model", kind="segmenter")
    assert loaded.description.classes == CLASSES
    live, exported, windows = PaddleSegmenter(model), ExportedSegmenter(loaded), Windows((64, 96), (42, 64))
    images = [np.random.default_rng(seed).standard_normal((1, 3, *size), dtype=np.float32)
              for seed, size in enumerate([(50, 90), (100, 180)])]
    shares = []
    for image in images:
        for flip in ((), (3,)):
            expected = image_logits(live, paddle.to_tensor(image), windows, flip=flip)
            np.testing.assert_allclose(image_logits(exported, image, windows, flip=flip), expected.numpy(), atol=1e-4)
            shares.append(paddle.nn.functional.softmax(resize(expected, (71, 133)), axis=1)[0].numpy())
    one = predict_labels(exported, images[:1], size=(71, 133), windows=windows)
    assert one.dtype == np.int32 and len(np.unique(one)) == 3
    assert (one == shares[0].argmax(0)).mean() > 0.999
    several = predict_labels(exported, images, size=(71, 133), flips=((), (3,)), windows=windows)
    assert (several == np.mean(shares, axis=0).argmax(0)).mean() > 0.999
    assert (several != one).any()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose model tells classes apart, an image, and what the run predicts of it."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder / "run", opts=["lr_scheduler.learning_rate=0.02"])
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return folder, predicted(folder / "run", folder)


def predicted(model, folder, *more) -> np.ndarray:
    out = folder / f"found_{model.name}"
    segment("predict", "--model_path", model, "--image_path", folder / "image.png", "--save_dir", out, *SLIDE, *more)
    return np.asarray(Image.open(out / "pseudo_color_prediction" / "image.png"))


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_run_predicts_what_the_run_predicts(trained, form):
    folder, expected = trained
    output = segment("export", "--model_path", folder / "run", "--save_dir", folder / form, "--format", form,
                     "--input_shape", 1, 3, 64, 64)
    assert "largest difference" in output
    np.testing.assert_array_equal(predicted(folder / form, folder), expected)
    assert (folder / f"found_{form}" / "legend.png").is_file()
    image = Image.open(folder / "image.png").convert("RGB")
    live, exported = (build_views(str(folder / name), None, None, None, 0)[0].show(image) for name in ("run", form))
    assert [(one.name, one.share) for one in exported.classes] == [(one.name, one.share) for one in live.classes]


def test_a_folder_for_paddlex_is_written_and_predicts_as_the_run(trained):
    folder, expected = trained
    segment("export", "--model_path", folder / "run", "--save_dir", folder / "px", "--format", "paddlex")
    known = yaml.safe_load((folder / "px/inference.yml").read_text())
    assert known["Global"] == {"model_name": "BEiTv2-segmenter"}
    assert [step["type"] for step in known["Deploy"]["transforms"]] == ["Normalize"]
    np.testing.assert_array_equal(predicted(folder / "px", folder), expected)


def test_an_exported_model_needs_the_settings_of_the_images_it_is_measured_on(trained):
    folder, _ = trained
    segment("export", "--model_path", folder / "run", "--save_dir", folder / "measured", "--format", "paddle")
    config = folder / "run/config.yml"
    for name, source in (("live", folder / "run"), ("exported", folder / "measured")):
        segment("evaluate", "--model_path", source, "--config", config, "--save_dir", folder / name)
    live, exported = ((folder / name / "per_class_iou.csv").read_text() for name in ("live", "exported"))
    assert exported == live
    assert "names no images to measure on. Add --config" in segment("evaluate", "--model_path", folder / "measured",
                                                                    code=2)
    said = segment("evaluate", "--model_path", folder / "run", "--runtime", "openvino", code=2)
    assert "--runtime openvino: " in said and "run is no exported model" in said


def test_export_refuses_another_window_and_ops_that_windows_cannot_be_averaged_by(trained):
    folder, _ = trained
    assert "reads windows of 64 x 64 pixels" in segment(
        "export", "--model_path", folder / "run", "--save_dir", folder / "no", "--input_shape", 1, 3, 32, 32, code=2)
    assert "exports logits" in segment(
        "export", "--model_path", folder / "run", "--save_dir", folder / "no", "--output_op", "argmax", code=2)
    assert not (folder / "no").exists()


@needs_onnx
def test_an_onnx_segmenter_needs_no_paddle(trained):
    folder, expected = trained
    segment("export", "--model_path", folder / "run", "--save_dir", folder / "alone", "--format", "onnx")
    arguments = ["--model_path", folder / "alone", "--image_path", folder / "image.png", "--save_dir", folder / "out"]
    said = subprocess.run([sys.executable, "-c", WITHOUT_PADDLE, *map(str, [*arguments, *SLIDE])], capture_output=True,
                          text=True, check=False)
    assert said.returncode == 0, said.stderr
    found = np.asarray(Image.open(folder / "out" / "pseudo_color_prediction" / "image.png"))
    np.testing.assert_array_equal(found, expected)
