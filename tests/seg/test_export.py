"""Pooling as a product, and an exported segmenter that labels pictures of any size as the live one does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import paddle
import pytest

from beitv2_core.deployed import load_exported
from beitv2_core.errors import ShapeError
from beitv2_seg.backbone import BEiTv2
from beitv2_seg.deployed import predict_labels, resized_rows, slide_logits
from beitv2_seg.export import export_segmentor
from beitv2_seg.heads import AdaptiveAveragePool, resize
from beitv2_seg.inference import slide_logits as live_slide_logits
from beitv2_seg.inference import window_corners as live_window_corners
from beitv2_seg.segmentor import BEiTv2UPerNet
from beitv2_seg.windows import window_corners

missing = [name for name in ("paddle2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing) or paddle.__version__.startswith("2."),
                                reason=f"not installed: {missing}" if missing else "paddle2onnx needs Paddle 3")
FORMS = ["paddle", pytest.param("onnx", marks=needs_onnx)]
CLASSES = ("sky", "tree", "car")
WITHOUT_PADDLE = """
import sys

class NoPaddle:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "paddle":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPaddle())
import numpy as np
from beitv2_core.deployed import load_exported
from beitv2_seg.deployed import predict_labels
model, image, out = sys.argv[1:]
np.save(out, predict_labels(load_exported(model, kind="segmenter"), [np.load(image)], size=(50, 90)))
"""


def segmentor(image_size=64, patch_size=8, width=12) -> BEiTv2UPerNet:
    """Small, with weights and statistics that reach every part of the logits."""
    paddle.seed(0)
    backbone = BEiTv2(width=width, depth=4, num_heads=2, image_size=image_size, patch_size=patch_size)
    model = BEiTv2UPerNet(len(CLASSES), backbone, channels=6, aux_channels=4)
    for name, parameter in model.named_parameters():
        if name.endswith("_variance"):
            parameter.set_value(paddle.rand(parameter.shape) + 0.5)
        elif parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * (2.0 / np.prod(parameter.shape[1:])) ** 0.5)
    model.eval()
    size = backbone.image_size
    with paddle.no_grad():
        means = model(paddle.randn([1, 3, *size]))[0].mean([0, 2, 3])
    bias = model.decode_head.conv_seg.bias
    bias.set_value(bias - means)  # every class wins somewhere
    return model


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
    description = export_segmentor(model, image_size=(512, 512), classes=CLASSES, path=tmp_path / "model", form=form)
    assert all(value < 1e-4 for sizes in description.differences.values() for outputs in sizes.values()
               for value in outputs.values())
    with paddle.no_grad():
        assert float(model(paddle.randn([1, 3, 512, 512]))[0].std()) > 1e-2  # logits that a fault would show in


@pytest.mark.parametrize("form", FORMS)
def test_rectangular_windows_label_a_picture_as_the_live_model_does(tmp_path, form):
    model = segmentor((64, 96))
    export_segmentor(model, image_size=(64, 96), classes=CLASSES, path=tmp_path / "model", form=form)
    exported = load_exported(tmp_path / "model", kind="segmenter")
    assert exported.description.classes == CLASSES
    windows = dict(crop=(64, 96), stride=(42, 64))
    images = [np.random.default_rng(seed).standard_normal((3, *size), dtype=np.float32)
              for seed, size in enumerate([(50, 90), (100, 180)])]
    shares = []
    for image in images:
        batch = paddle.to_tensor(image).unsqueeze(0)
        with paddle.no_grad():
            expected = live_slide_logits(model, batch, **windows)
            mirrored = live_slide_logits(model, batch.flip(3), **windows).flip(3)
        np.testing.assert_allclose(slide_logits(exported, image), expected[0].numpy(), atol=1e-4)
        np.testing.assert_allclose(slide_logits(exported, image, flip=(2,)), mirrored[0].numpy(), atol=1e-4)
        shares += [paddle.nn.functional.softmax(resize(part, (71, 133)), axis=1)[0].numpy()
                   for part in (expected, mirrored)]
    one = predict_labels(exported, images[:1], size=(71, 133))
    assert one.dtype == np.int32 and len(np.unique(one)) == 3
    assert (one == shares[0].argmax(0)).mean() > 0.999
    several = predict_labels(exported, images, size=(71, 133), flips=((), (2,)), batch_size=2)
    assert (several == np.mean(shares, axis=0).argmax(0)).mean() > 0.999
    assert (several != one).any()
    with pytest.raises(ShapeError, match="no picture"):
        predict_labels(exported, [], size=(71, 133))


@needs_onnx
def test_an_onnx_segmenter_needs_no_paddle(tmp_path):
    export_segmentor(segmentor(), image_size=(64, 64), classes=CLASSES, path=tmp_path / "model", form="onnx")
    image = np.random.default_rng(0).standard_normal((3, 80, 120), dtype=np.float32)
    np.save(tmp_path / "image.npy", image)
    arguments = [str(tmp_path / name) for name in ("model", "image.npy", "labels.npy")]
    said = subprocess.run([sys.executable, "-c", WITHOUT_PADDLE, *arguments], capture_output=True, text=True,
                          check=False)
    assert said.returncode == 0, said.stderr
    expected = predict_labels(load_exported(tmp_path / "model"), [image], size=(50, 90))
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)


@pytest.mark.parametrize("size", [(7, 9), (40, 31), (3, 100)])
def test_rows_of_a_resized_map_are_those_of_the_whole(size):
    x = np.random.default_rng(0).standard_normal((4, 9, 13), dtype=np.float32)
    expected = resize(paddle.to_tensor(x).unsqueeze(0), size)[0].numpy()
    np.testing.assert_allclose(resized_rows(x, size, (0, size[0])), expected, atol=1e-5)
    np.testing.assert_allclose(resized_rows(x, size, (1, 3)), expected[:, 1:3], atol=1e-5)


def test_windows_lie_where_the_live_ones_lie():
    for size in ((32, 32), (33, 70), (512, 683)):
        assert window_corners(size, (32, 32), (21, 21)) == live_window_corners(size, (32, 32), (21, 21))
