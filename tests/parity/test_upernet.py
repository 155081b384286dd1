# SPDX-License-Identifier: Apache-2.0
"""UPerHead, FCNHead and the whole segmentor: logits, losses, gradients, sliding windows, flips, statistics."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from golden_io import assert_close_grad, assert_close_output, group, load_golden
from test_seg_backbone import load

from beitv2_core.weights.keymaps.official import from_official
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.heads import FCNHead, UPerHead, resize
from beitv2_seg.model.losses import pixel_cross_entropy
from beitv2_seg.model.segmentor import BEiTv2UPerNet
from beitv2_seg.reading.paddle_segmenter import PaddleSegmenter
from beitv2_seg.reading.windows import Windows, mean_probabilities, predict_labels, slide_logits

SUBJECT = ("upernet_heads", "upernet_model")
WEIGHTS = (1.0, 0.4)


def heads_of(arrays: dict, meta: dict) -> paddle.nn.Layer:
    c = meta["config"]
    holder = paddle.nn.Layer()
    holder.decode_head = UPerHead([c["dim"]] * 4, c["channels"], c["num_classes"],
                                  pool_scales=c["pool_scales"], dropout=0.0)
    holder.auxiliary_head = FCNHead(c["dim"], c["aux_channels"], c["num_classes"], dropout=0.0)
    load(holder, group(arrays, "init"))
    return holder


def model_of(arrays: dict, meta: dict) -> BEiTv2UPerNet:
    c, official = meta["config"], group(arrays, "init")
    backbone = BEiTv2(image_size=c["img_size"], width=c["dim"], depth=c["depth"], num_heads=c["heads"],
                      out_indices=c["out_indices"], init_values=0.1,
                      patch_size=official["backbone.patch_embed.proj.weight"].shape[-1])
    model = BEiTv2UPerNet(c["num_classes"], backbone, channels=c["channels"], aux_channels=c["aux_channels"],
                          dropout=0.0)
    load(model, official)
    return model


def recorded(fixture_path, kind: str):
    arrays, meta = load_golden(fixture_path)
    if any(name.startswith("init/backbone.") for name in arrays) != (kind == "model"):
        pytest.skip(f"{fixture_path.name} is not about the {kind}")
    return arrays, meta


def assert_gradients(model, arrays: dict) -> None:
    reference = from_official(group(arrays, "grad"))
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    assert set(reference) == set(parameters)
    for name, gradient in reference.items():
        assert_close_grad(parameters[name].grad, gradient, name)


def assert_statistics(model, arrays: dict) -> None:
    after = from_official(group(arrays, "train/after"))
    assert after
    for name, value in after.items():
        assert_close_output(model.state_dict()[name], value, name)


def test_heads_in_eval_mode(fixture_path):
    arrays, meta = recorded(fixture_path, "heads")
    heads = heads_of(arrays, meta)
    heads.eval()
    maps = [paddle.to_tensor(arrays[f"input/feat{i}"]) for i in range(1, 5)]
    assert_close_output(heads.decode_head(maps), arrays["eval/decode_logits"], "decode logits")
    assert_close_output(heads.auxiliary_head(maps[2]), arrays["eval/aux_logits"], "auxiliary logits")


def test_heads_losses_gradients_and_running_statistics(fixture_path):
    arrays, meta = recorded(fixture_path, "heads")
    heads = heads_of(arrays, meta)
    heads.train()
    maps = [paddle.to_tensor(arrays[f"input/feat{i}"], stop_gradient=False) for i in range(1, 5)]
    labels = paddle.to_tensor(arrays["input/gt"].astype("int64"))
    logits = [heads.decode_head(maps), heads.auxiliary_head(maps[2])]
    losses = []
    for part, name, weight in zip(logits, ("decode", "aux"), WEIGHTS):
        assert_close_output(part, arrays[f"train/{name}_logits"], f"{name} logits")
        losses.append(weight * pixel_cross_entropy(resize(part, labels.shape[-2:]), labels))
        assert_close_output(losses[-1], arrays[f"train/loss_{name}"], f"{name} loss")
    assert_close_output(sum(losses), arrays["train/loss_total"], "loss")
    sum(losses).backward()
    assert_gradients(heads, arrays)
    for i, level in enumerate(maps, 1):
        assert_close_grad(level.grad, arrays[f"grad_feat/{i}"], f"map {i}")
    assert_statistics(heads, arrays)


def test_training_losses_gradients_and_running_statistics(fixture_path):
    arrays, meta = recorded(fixture_path, "model")
    model = model_of(arrays, meta)
    model.train()
    labels = paddle.to_tensor(arrays["input/gt"].astype("int64"))
    logits = model(paddle.to_tensor(arrays["input/x"]))
    losses = [weight * pixel_cross_entropy(part, labels) for part, weight in zip(logits, WEIGHTS)]
    assert_close_output(losses[0], arrays["train/decode.loss_seg"], "decode loss")
    assert_close_output(losses[1], arrays["train/aux.loss_seg"], "auxiliary loss")
    assert_close_output(sum(losses), arrays["train/loss"], "loss")
    sum(losses).backward()
    assert_gradients(model, arrays)
    assert_statistics(model, arrays)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_sliding_windows_rescaling_and_flip(fixture_path, batch_size):
    arrays, meta = recorded(fixture_path, "model")
    c, model = meta["config"], model_of(arrays, meta)
    model.eval()
    windows = Windows(tuple(c["crop"]), tuple(c["stride"]), batch_size)
    size, image = tuple(c["ori_shape"]), paddle.to_tensor(arrays["input/test_image"])
    with paddle.no_grad():
        assert_close_output(model(paddle.to_tensor(arrays["input/x"]))[0], arrays["eval/logits_train_size"], "logits")
        segmenter = PaddleSegmenter(model)
        logits = slide_logits(segmenter, image, windows)
        assert_close_output(logits, arrays["eval/slide_logits"], "logits of the windows")
        assert_close_output(resize(logits, size), arrays["eval/slide_logits_rescaled"], "rescaled logits")
        found = paddle.concat(mean_probabilities(segmenter, [image], size=size, windows=windows), axis=2)
        assert_close_output(found, arrays["eval/slide_prob"], "probabilities")
        assert np.array_equal(predict_labels(segmenter, [image], size=size, windows=windows)[None],
                              arrays["eval/slide_pred"].reshape(1, *size))
        # recorded before the mirrored probabilities were mirrored back
        mirrored = paddle.concat(
            mean_probabilities(segmenter, [image], size=size, flips=[(3,)], windows=windows), axis=2)
        assert_close_output(mirrored, arrays["eval/slide_prob_flipped_input"], "probabilities of the mirrored image")
