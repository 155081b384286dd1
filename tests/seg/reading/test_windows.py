# SPDX-License-Identifier: Apache-2.0
"""Windows, scales and flips: every pixel is seen, probabilities are averaged, both array libraries agree."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.errors import ShapeError
from beitv2_seg.config import TestConfig
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.heads import resize
from beitv2_seg.model.segmentor import BEiTv2UPerNet
from beitv2_seg.reading.exported_segmenter import ExportedSegmenter
from beitv2_seg.reading.label_map import predict_label_map
from beitv2_seg.reading.paddle_segmenter import PaddleSegmenter
from beitv2_seg.reading.windows import (
    Windows,
    image_logits,
    mean_probabilities,
    predict_labels,
    slide_logits,
    window_corners,
)


def segmentor() -> BEiTv2UPerNet:
    paddle.seed(0)
    backbone = BEiTv2(width=12, depth=4, num_heads=2, image_size=32, patch_size=8)
    model = BEiTv2UPerNet(3, backbone, channels=6, aux_channels=4)
    model.eval()
    return model


def test_windows_cover_every_pixel_and_gaps_are_refused():
    for size in ((32, 32), (33, 70), (20, 100)):
        seen = np.zeros(size, dtype=bool)
        for top, left in window_corners(size, (32, 32), (21, 21)):
            assert 0 <= top <= max(size[0] - 32, 0) and 0 <= left <= max(size[1] - 32, 0)
            seen[top:top + 32, left:left + 32] = True
        assert seen.all()
    with pytest.raises(ShapeError, match="stride"):
        window_corners((64, 64), (32, 32), (33, 32))


def test_a_image_smaller_than_the_window_is_padded_and_cut_back():
    model, image = segmentor(), paddle.rand([1, 3, 20, 50])
    with paddle.no_grad():
        logits = slide_logits(PaddleSegmenter(model), image, Windows((32, 32), (21, 21)))
    assert list(logits.shape) == [1, 3, 20, 50]


@pytest.mark.parametrize("stripe_bytes", [1, 2000, 2**30])
def test_scales_and_flips_are_averaged_as_probabilities_in_stripes_of_any_height(stripe_bytes, monkeypatch):
    monkeypatch.setattr("beitv2_seg.reading.windows.STRIPE_BYTES", stripe_bytes)
    model, windows, size = PaddleSegmenter(segmentor()), Windows((32, 32), (21, 21)), (61, 47)
    images, flips = [paddle.rand([1, 3, 40, 52]), paddle.rand([1, 3, 60, 78])], [(), (3,), (2,), (2, 3)]
    with paddle.no_grad():
        mean = paddle.concat(mean_probabilities(model, images, size=size, flips=flips, windows=windows), axis=2)
        parts = [F.softmax(resize(image_logits(model, image, windows, flip=flip), size), axis=1)
                 for image in images for flip in flips]
        expected = np.mean([part.numpy() for part in parts], axis=0)
        np.testing.assert_allclose(mean.numpy(), expected, atol=1e-6)
        assert np.array_equal(predict_labels(model, images, size=size, flips=flips, windows=windows),
                              mean.numpy()[0].argmax(0))
        alone = resize(image_logits(model, images[0], windows), size).numpy()[0].argmax(0)
        assert np.array_equal(predict_labels(model, images[:1], size=size, windows=windows), alone)
    np.testing.assert_allclose(mean.numpy().sum(1), 1, atol=1e-5)


def test_a_mirrored_image_is_mirrored_back():
    model, image = PaddleSegmenter(segmentor()), paddle.rand([1, 3, 40, 52])
    windows = Windows((32, 32), (21, 21))
    with paddle.no_grad():
        there = image_logits(model, image.flip([3]), windows).flip([3])
        np.testing.assert_array_equal(image_logits(model, image, windows, flip=(3,)), there)


class OneWindow:
    """Stands for an exported model: three classes out of what each pixel and its window are."""

    def run_normalised(self, images):
        return {"logits": images * images[:, :, :1, :1] - images[:, ::-1]}


@pytest.mark.parametrize("size", [(20, 50), (32, 32), (61, 47)])
def test_windows_are_averaged_alike_by_paddle_and_by_numpy(size):
    image = np.random.RandomState(0).rand(1, 3, *size).astype(np.float32)
    windows = Windows((32, 32), (21, 17), 3)
    live = PaddleSegmenter(lambda images: [images * images[:, :, :1, :1] - images.flip(1)])
    exported = ExportedSegmenter(OneWindow())
    for flip in ((), (3,), (2, 3)):
        there = image_logits(live, paddle.to_tensor(image), windows, flip=flip).numpy()
        np.testing.assert_array_equal(image_logits(exported, image, windows, flip=flip), there)
    found = [predict_labels(one, inputs, size=(33, 29), flips=[(), (3,)], windows=windows)
             for one, inputs in ((live, [paddle.to_tensor(image)]), (exported, [image]))]
    assert found[0].dtype == found[1].dtype == np.int32 and len(np.unique(found[0])) == 3
    assert (found[0] == found[1]).mean() > 0.99


def test_no_image_is_refused():
    with pytest.raises(ShapeError, match="no image"):
        predict_labels(ExportedSegmenter(OneWindow()), [], size=(8, 8))


@pytest.mark.parametrize("size", [(7, 9), (40, 31), (3, 100)])
def test_rows_of_a_resized_map_are_those_of_the_whole(size):
    x = np.random.default_rng(0).standard_normal((1, 4, 9, 13), dtype=np.float32)
    with paddle.no_grad():  # Paddle's own
        expected = resize(paddle.to_tensor(x), size).numpy()
    for segmenter, same in ((ExportedSegmenter(None), x), (PaddleSegmenter(None), paddle.to_tensor(x))):
        np.testing.assert_allclose(segmenter.resized_rows(same, size, (0, size[0])), expected, atol=1e-5)
        np.testing.assert_allclose(segmenter.resized_rows(same, size, (1, 3)), expected[:, :, 1:3], atol=1e-5)


class Places:
    """A segmenter of numpy whose answer depends on the place in the window: 1 at the edges, 0 in the middle."""

    def __init__(self, side=16):
        ramp = np.abs(np.linspace(-1, 1, side, dtype=np.float32))
        self.answer = np.maximum.outer(ramp, ramp)[None, None]

    def logits(self, images):
        return images[:, :1] + self.answer


def numpy_segmenter(answer):
    """`ExportedSegmenter` of a model that answers as told."""
    segmenter = ExportedSegmenter.__new__(ExportedSegmenter)
    segmenter.logits = answer
    return segmenter


def test_uniform_weights_are_the_mean_of_before_to_the_bit_and_the_default():
    model, image = segmentor(), paddle.rand([1, 3, 40, 52])
    crop, stride = (32, 32), (21, 21)
    with paddle.no_grad():
        found = slide_logits(PaddleSegmenter(model), image, Windows(crop, stride, 1, "uniform"))
        total, count = paddle.zeros([1, 3, 40, 52]), paddle.zeros([1, 1, 40, 52])
        for top, left in window_corners((40, 52), crop, stride):  # mmsegmentation 0.11, slide_inference
            total[:, :, top:top + 32, left:left + 32] += model(image[:, :, top:top + 32, left:left + 32])[0]
            count[:, :, top:top + 32, left:left + 32] += 1
    np.testing.assert_array_equal(found.numpy(), (total / count).numpy())
    assert Windows(crop, stride).weights == TestConfig().window_weights == "uniform"


@pytest.mark.parametrize("library", ["paddle", "numpy"])
def test_gaussian_weights_equal_the_plain_formula(library):
    rng = np.random.default_rng(0)
    pixels = rng.random((1, 3, 30, 41)).astype(np.float32)
    crop, stride = (16, 24), (9, 11)
    rows, columns = (np.arange(side) - (side - 1) / 2 for side in crop)
    weight = np.exp(-rows[:, None] ** 2 / (2 * (16 / 8) ** 2) - columns[None] ** 2 / (2 * (24 / 8) ** 2))
    ramp = np.linspace(0, 1, 24)
    expected, weights = np.zeros((30, 41)), np.zeros((30, 41))
    for top, left in window_corners((30, 41), crop, stride):
        part = slice(top, top + 16), slice(left, left + 24)
        expected[part] += weight * (pixels[0, 0][part] + ramp)
        weights[part] += weight
    if library == "numpy":
        segmenter, image = numpy_segmenter(lambda x: x[:, :1] + ramp.astype(np.float32)), pixels
    else:
        segmenter = PaddleSegmenter(lambda x: [x[:, :1] + paddle.to_tensor(ramp.astype(np.float32))])
        image = paddle.to_tensor(pixels)
    found = np.asarray(slide_logits(segmenter, image, Windows(crop, stride, 3, "gaussian")))
    np.testing.assert_allclose(found[0, 0], expected / weights, rtol=2e-5)


def test_a_constant_map_stays_constant_and_seams_get_smaller_under_gaussian_weights():
    image = np.zeros((1, 3, 40, 52), np.float32)
    windows = {name: Windows((16, 16), (10, 10), 4, name) for name in ("uniform", "gaussian")}
    flat = slide_logits(numpy_segmenter(lambda x: np.full((len(x), 1, 16, 16), 3.7, np.float32)), image,
                        windows["gaussian"])
    np.testing.assert_allclose(flat, 3.7, rtol=1e-5)
    steps = {}
    for name in windows:
        found = slide_logits(numpy_segmenter(Places().logits), image, windows[name])[0, 0, 3:-3, 3:-3]
        steps[name] = max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1))
    assert steps["gaussian"] < 0.7 * steps["uniform"]


def test_window_weights_reach_what_predict_and_evaluate_read_with(monkeypatch):
    seen = []
    monkeypatch.setattr("beitv2_seg.reading.label_map.predict_labels",
                        lambda *_, windows, **__: seen.append(windows.weights))
    data = [{"img": np.zeros((3, 40, 40), np.float32)}]
    for slides in ({"is_slide": True, "crop_size": (32, 32), "stride": (21, 21)}, {}):
        predict_label_map(segmentor(), data, TestConfig(**slides, window_weights="gaussian"))
    assert seen == ["gaussian", "gaussian"]
