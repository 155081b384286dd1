# SPDX-License-Identifier: Apache-2.0
"""Promises of the tokenizer that hold for any weights."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.errors import ConfigError, ShapeError
from beitv2_core.models import vqkd
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.vqkd import VQKD


def build(grid=(2, 3), decoder_grid=None, **kwargs) -> VQKD:
    common = dict(width=16, depth=1, num_heads=2, use_abs_pos_emb=True, norm="pool")
    encoder = BEiTBackbone(image_size=(grid[0] * 4, grid[1] * 4), patch_size=4, **common)
    decoder = BEiTBackbone(image_size=decoder_grid or grid, patch_size=1, in_chans=5, **common)
    sizes = {"num_codes": 9, "code_dim": 5, "teacher_width": 7, "kmeans_init": False, **kwargs}
    model = VQKD(encoder, decoder, **sizes)
    for parameter in model.parameters():  # fresh weights are small; these make every patch its own feature
        parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))
    return model


def random_images(count=3, grid=(2, 3)):
    return paddle.rand([count, 3, grid[0] * 4, grid[1] * 4])


def snapshot(layer):
    return {name: value.numpy().copy() for name, value in layer.state_dict().items()}


def test_sizes_are_those_of_the_encoder_and_the_codebook():
    model = build()
    assert (model.num_codes, model.code_dim, tuple(model.grid), tuple(model.image_size)) == (9, 5, (2, 3), (8, 12))


def test_tokenizing_changes_no_state_in_any_mode_and_needs_no_gradient():
    model = build(kmeans_init=True)
    for mode in (model.eval, model.train):
        mode()
        before = snapshot(model)
        codes = model.tokenize(random_images())
        assert codes.shape == [3, 6] and codes.dtype == paddle.int64 and codes.stop_gradient
        for name, value in snapshot(model).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_eval_mode_forward_changes_nothing():
    model = build()
    model.eval()
    before = snapshot(model)
    model(random_images(), paddle.randn([3, 6, 7]))
    for name, value in snapshot(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_lookup_and_decode_lead_from_codes_to_the_teacher_space():
    model = build()
    model.eval()
    images, target = random_images(), paddle.randn([3, 6, 7])
    codes = model.tokenize(images)
    np.testing.assert_array_equal(model.lookup(codes).numpy(), model.quantize.codebook.numpy()[codes.numpy()])
    rec_loss = model.reconstruction_loss(model.decode(codes), target)
    np.testing.assert_allclose(float(rec_loss), float(model(images, target)["rec_loss"]), rtol=1e-5)


def test_reconstruction_loss_is_one_minus_the_cosine():
    target = paddle.randn([2, 6, 7])
    assert abs(float(VQKD.reconstruction_loss(3 * target, target))) < 1e-6
    assert abs(float(VQKD.reconstruction_loss(-target, target)) - 2) < 1e-6


def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_parameter():
    model = build()
    out = model(random_images(), paddle.randn([3, 6, 7]))
    np.testing.assert_allclose(float(out["loss"]), float(out["rec_loss"]) + float(out["quant_loss"]), rtol=1e-6)
    out["loss"].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.numpy().any()]
    assert not silent


def test_unquantised_training_decodes_the_features_and_leaves_the_codebook_alone():
    model = build(kmeans_init=True)
    images, target = random_images(), paddle.randn([3, 6, 7])
    before = snapshot(model.quantize)
    out = model(images, target, quantized=False)
    assert "codes" not in out and float(out["quant_loss"]) == 0 and float(out["loss"]) == float(out["rec_loss"])
    expected = F.normalize(model.features(images), axis=-1).detach().numpy()
    np.testing.assert_allclose(out["features"].numpy(), expected, atol=1e-6)
    assert out["features"].stop_gradient
    out["loss"].backward()
    assert model.encode_task_layer[0].weight.grad.numpy().any()
    for name, value in snapshot(model.quantize).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_mixed_precision_leaves_projection_and_codes_in_float32():
    model = build()
    model.eval()
    images = random_images()
    with paddle.amp.auto_cast(dtype="bfloat16"):
        assert model.features(images).dtype == paddle.float32
        codes_mixed = model.tokenize(images)
    np.testing.assert_array_equal(codes_mixed.numpy(), model.tokenize(images).numpy())


def test_the_input_range_is_declared_not_guessed():
    dark = 0.2 * random_images()
    np.testing.assert_allclose(build().preprocess(dark).numpy(), 2 * dark.numpy() - 1, atol=1e-6)
    bright = 300 * random_images()  # out of range: mapped like any other, never treated as 0 .. 255
    np.testing.assert_allclose(build().preprocess(bright).numpy(), 2 * bright.numpy() - 1, rtol=1e-5)
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
    grey = build(input_range="imagenet").preprocess(paddle.to_tensor(np.broadcast_to(mean, (1, 3, 8, 12)).copy()))
    np.testing.assert_allclose(grey.numpy(), 0, atol=1e-6)


def test_an_unknown_input_range_lists_the_known_ones():
    with pytest.raises(ConfigError, match="input_range 'guess' is not known. Known: 'unit', 'imagenet'"):
        build(input_range="guess")


def test_a_decoder_for_another_grid_names_both_grids():
    with pytest.raises(ShapeError, match="encoder gives 2 x 3 patches, the decoder reads 3 x 2"):
        build(decoder_grid=(3, 2))


def test_a_target_of_another_shape_names_both_shapes():
    with pytest.raises(ShapeError, match=r"have shape \[3, 6, 8\], these images need \[3, 6, 7\]"):
        build()(random_images(), paddle.randn([3, 6, 8]))


def test_decoding_needs_a_code_for_every_patch():
    with pytest.raises(ShapeError, match=r"codes have shape \[3, 4\]; expected \(images, 6\)"):
        build().decode(paddle.zeros([3, 4], dtype="int64"))


def test_names_without_weight_decay_exist():
    model = build()
    assert model.no_weight_decay() == {"encoder.cls_token", "encoder.pos_embed", "decoder.cls_token",
                                       "decoder.pos_embed"}
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", sorted(vqkd.PUBLISHED))
def test_a_published_name_builds_its_decoder_depth_and_teacher_width(name, monkeypatch):
    monkeypatch.setitem(vqkd.SIZES, "base", {"width": 24, "depth": 1, "num_heads": 2})  # 86 M weights are not the point
    model = vqkd.build_published(name, kmeans_iters=3)
    assert (model.num_codes, model.code_dim, tuple(model.grid)) == (8192, 32, (14, 14))
    assert model.decoder.depth == (3 if "_3x768" in name else 1)
    assert model.teacher_width == model.decode_task_layer[2].weight.shape[1] == (768 if "dino" in name else 512)
    assert model.decoder.patch_size == (1, 1) and model.quantize.kmeans_iters == 3


def test_an_unknown_published_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'vqkd_huge' is not known. Known: vqkd_encoder_base_decoder_1x768x12_clip"):
        vqkd.build_published("vqkd_huge")
