# SPDX-License-Identifier: Apache-2.0
"""Losses without labels, the pyramid of both patch sizes, pretrained trunks, and what is refused."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.errors import CheckpointError, ConfigError, DataError, ShapeError
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.losses import pixel_cross_entropy
from beitv2_seg.model.segmentor import BEiTv2UPerNet

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
