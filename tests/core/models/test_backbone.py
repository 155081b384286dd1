# SPDX-License-Identifier: Apache-2.0
"""One trunk for every image size its positions allow; what it cannot serve is named."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ShapeError
from beitv2_core.models.backbone import SIZES, BEiTBackbone

SMALL = dict(width=12, depth=3, num_heads=2, patch_size=4)


def images(height, width, count=2):
    return paddle.to_tensor(np.random.RandomState(0).randn(count, 3, height, width).astype("float32"))


@pytest.mark.parametrize("positions", [{"use_abs_pos_emb": True}, {}])
@pytest.mark.parametrize("size", [(8, 12), (16, 16), (20, 8)])
def test_absolute_and_no_positions_serve_other_sizes(positions, size):
    model = BEiTBackbone(image_size=12, **SMALL, **positions)
    tokens, _ = model.forward_tokens(images(*size))
    assert tokens.shape == [2, 1 + size[0] * size[1] // 16, 12]


@pytest.mark.parametrize("scheme", ["use_rel_pos_bias", "use_shared_rel_pos_bias"])
def test_relative_positions_serve_one_size_non_square_too_and_name_both_otherwise(scheme):
    model = BEiTBackbone(image_size=(8, 12), **SMALL, **{scheme: True})
    assert model.patch_tokens(images(8, 12)).shape == [2, 6, 12]
    with pytest.raises(ShapeError, match=r"12 x 8 give 3 x 2 patches.*8 x 12 \(2 x 3\)"):
        model.patch_tokens(images(12, 8))


def test_taps_are_the_raw_outputs_of_their_blocks():
    model = BEiTBackbone(image_size=8, **SMALL)
    model.eval()
    x = model.embed(images(8, 8))
    last, taps = model.forward_tokens(images(8, 8), taps=(0, 2))
    first = model.blocks[0](x)
    np.testing.assert_array_equal(taps[0].numpy(), first.numpy())
    np.testing.assert_array_equal(taps[2].numpy(), last.numpy())
    with pytest.raises(ShapeError, match=r"taps \[3\] do not exist; blocks are 0 .. 2"):
        model.forward_tokens(images(8, 8), taps=(3,))


def test_pooling_is_the_mean_of_the_patches_or_the_class_token():
    mean, cls = (BEiTBackbone(image_size=8, norm=norm, **SMALL) for norm in ("pool", "final"))
    for model in (mean, cls):
        model.eval()
    tokens, _ = mean.forward_tokens(images(8, 8))
    np.testing.assert_allclose(mean(images(8, 8)).numpy(), mean.fc_norm(tokens[:, 1:].mean(1)).numpy(), atol=1e-6)
    tokens, _ = cls.forward_tokens(images(8, 8))
    np.testing.assert_allclose(cls(images(8, 8)).numpy(), cls.norm(tokens)[:, 0].numpy(), atol=1e-6)


def test_the_last_attention_map_is_a_distribution_over_tokens():
    model = BEiTBackbone(image_size=8, use_shared_rel_pos_bias=True, **SMALL)
    attention = model.last_attention(images(8, 8))
    assert attention.shape == [2, 2, 5, 5]
    np.testing.assert_allclose(attention.sum(-1).numpy(), 1, atol=1e-5)


def test_attention_of_a_block_is_that_of_a_model_that_ends_with_it():
    model, short = (BEiTBackbone(image_size=8, use_rel_pos_bias=True, **{**SMALL, "depth": depth}) for depth in (3, 2))
    short.set_state_dict({key: model.state_dict()[key] for key in short.state_dict()})
    for one in (model, short):
        one.eval()
    np.testing.assert_array_equal(model.attention(images(8, 8), 2).numpy(), short.last_attention(images(8, 8)).numpy())
    np.testing.assert_array_equal(model.attention(images(8, 8)).numpy(), model.attention(images(8, 8), 3).numpy())
    for block in (0, 4):
        with pytest.raises(ShapeError, match=rf"block {block}: this model has the blocks 1 \.\. 3"):
            model.attention(images(8, 8), block)


def test_a_hidden_patch_has_no_influence():
    model = BEiTBackbone(image_size=8, use_mask_token=True, use_abs_pos_emb=True, **SMALL)
    model.eval()
    mask = paddle.to_tensor(np.array([[True, False, False, False]] * 2))
    other = images(8, 8).clone()
    other[:, :, :4, :4] = 9.0
    one, two = (model.forward_tokens(x, mask)[0].numpy() for x in (images(8, 8), other))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("changes", "message"), [
    ({"image_size": 10}, r"image_size \(10, 10\) is no multiple of patch_size \(4, 4\)"),
    ({"image_size": 8, "num_heads": 5}, "width 12 does not divide into 5 heads"),
])
def test_impossible_sizes_are_named(changes, message):
    with pytest.raises(ShapeError, match=message):
        BEiTBackbone(**{**SMALL, **changes})


def test_wrong_inputs_are_named():
    model = BEiTBackbone(image_size=8, **SMALL)
    with pytest.raises(ShapeError, match="images have 1 channels, the model was built for 3"):
        model(images(8, 8)[:, :1])
    with pytest.raises(ShapeError, match="no whole number of patches"):
        model(images(9, 8))
    with pytest.raises(ShapeError, match="no mask token"):
        model.forward_tokens(images(8, 8), paddle.zeros([2, 4], dtype="bool"))


def test_every_published_size_is_listed():
    assert set(SIZES) == {"tiny", "small", "base", "large", "huge"}
