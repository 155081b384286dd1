# SPDX-License-Identifier: Apache-2.0
"""Losses without labels, the pyramid of both patch sizes, windows, pretrained trunks, and what is refused."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.errors import CheckpointError, ConfigError, DataError, ShapeError
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.heads import resize
from beitv2_seg.model.losses import pixel_cross_entropy
from beitv2_seg.model.segmentor import BEiTv2UPerNet
from beitv2_seg.reading.inference import (
    Windows,
    image_logits,
    mean_probabilities,
    predict_labels,
    slide_logits,
    window_corners,
)

SMALL = dict(width=12, depth=4, num_heads=2, image_size=32, patch_size=8)


def segmentor() -> BEiTv2UPerNet:
    paddle.seed(0)
    model = BEiTv2UPerNet(3, BEiTv2(**SMALL), channels=6, aux_channels=4)
    model.eval()
    return model


def test_a_batch_without_a_labelled_pixel_has_loss_zero_and_no_gradient():
    logits = paddle.rand([1, 3, 4, 4])
    logits.stop_gradient = False
    loss = pixel_cross_entropy(logits, paddle.full([1, 4, 4], 255, dtype="int64"))
    loss.backward()
    assert float(loss) == 0.0 and not logits.grad.numpy().any()


def test_class_weights_scale_the_loss_of_their_pixels_and_must_be_one_for_each_class():
    logits, labels = paddle.rand([1, 3, 4, 4]), paddle.to_tensor(np.random.RandomState(0).randint(0, 3, (1, 4, 4)))
    labels[0, 0] = 255
    single = [pixel_cross_entropy(logits, paddle.where(labels == i, labels, paddle.full_like(labels, 255)))
              for i in range(3)]
    weighted = pixel_cross_entropy(logits, labels, class_weight=[0.5, 2.0, 0.0])
    assert float(weighted) == pytest.approx(float(0.5 * single[0] + 2 * single[1]), rel=1e-5)
    with pytest.raises(ConfigError, match="2 class weights for 3 classes"):
        pixel_cross_entropy(logits, labels, class_weight=[1.0, 1.0])


def test_a_label_above_the_classes_is_named():
    with pytest.raises(DataError, match="a label is 7, the model has 3 classes"):
        pixel_cross_entropy(paddle.rand([1, 3, 2, 2]), paddle.full([1, 2, 2], 7, dtype="int64"))


@pytest.mark.parametrize("patch", [8, 16])
def test_four_strides_from_either_patch_and_rectangular_images(patch):
    model = BEiTv2(**{**SMALL, "patch_size": patch, "image_size": (64, 96)})
    model.eval()
    shapes = [level.shape[2:] for level in model(paddle.rand([1, 3, 64, 96]))]
    assert [list(shape) for shape in shapes] == [[64 // s, 96 // s] for s in (4, 8, 16, 32)]
    assert model.feat_channels == [12] * 4


def test_a_block_may_feed_two_scales_where_there_are_fewer_blocks_than_scales():
    model = BEiTv2(**{**SMALL, "depth": 3}, out_indices=(0, 1, 2, 2))
    assert [level.shape[2] for level in model(paddle.rand([1, 3, 32, 32]))] == [8, 4, 2, 1]


@pytest.mark.parametrize("depth, taps", [(1, (0, 0, 0, 0)), (2, (0, 0, 1, 1)), (3, (0, 1, 2, 2)), (4, (0, 1, 2, 3)),
                                         (6, (0, 2, 3, 5)), (12, (2, 5, 8, 11))])
def test_the_taps_are_quarters_of_any_depth_where_the_settings_do_not_say(depth, taps):
    assert BEiTv2(**{**SMALL, "depth": depth}).out_indices == taps


@pytest.mark.parametrize("taps", [(0, 1, 2), (0, 1, 2, 4), (3, 2, 1, 0), (0, 0, 2, 1)])
def test_impossible_taps_are_refused(taps):
    with pytest.raises(ShapeError, match="out_indices is .* of 0 .. 3.*model.backbone"):
        BEiTv2(**SMALL, out_indices=taps)


def test_a_patch_without_a_pyramid_is_refused():
    with pytest.raises(ShapeError, match="expected 8 or 16"):
        BEiTv2(**{**SMALL, "patch_size": 4})


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
        logits = slide_logits(model, image, crop=(32, 32), stride=(21, 21))
    assert list(logits.shape) == [1, 3, 20, 50]


@pytest.mark.parametrize("stripe_bytes", [1, 2000, 2**30])
def test_scales_and_flips_are_averaged_as_probabilities_in_stripes_of_any_height(stripe_bytes, monkeypatch):
    monkeypatch.setattr("beitv2_seg.reading.inference.STRIPE_BYTES", stripe_bytes)
    model, windows, size = segmentor(), Windows((32, 32), (21, 21)), (61, 47)
    images, flips = [paddle.rand([1, 3, 40, 52]), paddle.rand([1, 3, 60, 78])], [(), (3,), (2,), (2, 3)]
    with paddle.no_grad():
        mean = mean_probabilities(model, images, size=size, flips=flips, windows=windows)
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
    model, image = segmentor(), paddle.rand([1, 3, 40, 52])
    windows = Windows((32, 32), (21, 21))
    with paddle.no_grad():
        there = image_logits(model, image.flip([3]), windows).flip([3])
        np.testing.assert_array_equal(image_logits(model, image, windows, flip=(3,)), there)


def test_a_pretrained_trunk_is_loaded_strictly_with_its_shared_bias_resized(tmp_path):
    from beitv2_core.models.mim import BEiTForMaskedImageModeling

    student = BEiTForMaskedImageModeling(num_codes=16, early_layers=2, head_layers=1, use_shared_rel_pos_bias=True,
                                         init_values=0.1, **{**SMALL, "image_size": 16})
    table = student.rel_pos_bias.relative_position_bias_table
    table.set_value(paddle.rand(table.shape))
    path = tmp_path / "student.pdparams"
    paddle.save(student.state_dict(), str(path))
    model = BEiTv2(**SMALL, pretrained=str(path), pretrained_image_size=16)
    for i, block in enumerate(model.blocks):
        np.testing.assert_array_equal(block.mlp.fc1.weight, student.blocks[i].mlp.fc1.weight)
        got = block.attn.rel_pos_bias if hasattr(block.attn, "rel_pos_bias") else block.attn
        assert got.relative_position_bias_table.shape[0] == 7 * 7 + 3
        assert got.relative_position_bias_table.numpy().any()
    with pytest.raises(CheckpointError, match="not a trunk for this BEiTv2"):
        BEiTv2(**{**SMALL, "width": 24}, pretrained=str(path), pretrained_image_size=16)


def test_the_segmentor_becomes_a_static_graph_with_the_same_logits(tmp_path):
    model, image = segmentor(), paddle.rand([1, 3, 32, 32])
    expected = model(image)[0].numpy()
    spec = [paddle.static.InputSpec([1, 3, 32, 32], "float32")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec), str(tmp_path / "model"))
    got = paddle.jit.load(str(tmp_path / "model"))(image)
    np.testing.assert_allclose((got[0] if isinstance(got, (list, tuple)) else got).numpy(), expected, atol=1e-4)
