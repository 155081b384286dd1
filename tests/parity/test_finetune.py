# SPDX-License-Identifier: Apache-2.0
"""The classifier against the official forward passes, losses, gradients, layer-decay AdamW steps and other sizes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from golden_io import assert_close_grad, assert_close_output, assert_close_update, group, load_golden

from beitv2_cls.classifier import BEiTClassifier, without_decay
from beitv2_cls.losses import soft_cross_entropy
from beitv2_core.data.views.mixup import soft_targets
from beitv2_core.engine.optim import DECAYS, build_optimizer, layer_decay_scale, parameter_groups
from beitv2_core.engine.step import global_norm
from beitv2_core.errors import ShapeError
from beitv2_core.weights.keymaps.official import from_official

SUBJECT = ("finetune",)


def model_of(meta: dict, arrays: dict) -> BEiTClassifier:
    c = meta["config"]
    model = BEiTClassifier(
        num_classes=c["num_classes"], pooling="mean" if c["mean_pool"] else "cls", image_size=c["img_size"],
        patch_size=c["patch_size"], width=c["dim"], depth=c["depth"], num_heads=c["heads"], mlp_ratio=c["mlp_ratio"],
        qkv_bias=c["qkv_bias"], init_values=c["init_values"], use_abs_pos_emb=c["abs_pos"],
        use_rel_pos_bias=c["rel"], use_shared_rel_pos_bias=c["shared_rel"])
    load(model, group(arrays, "init"))
    return model


def load(model, official: dict[str, np.ndarray]) -> None:
    state = from_official(official)
    assert set(state) == set(model.state_dict()), "names differ from the official state dict"
    model.set_state_dict({name: paddle.to_tensor(np.ascontiguousarray(array)) for name, array in state.items()})


def spared(model, config: dict) -> set[str]:
    """Names without decay; a fixture may have been made with `--disable_weight_decay_on_rel_pos_bias`."""
    return without_decay(model, decay_rel_pos_bias=not config.get("no_wd_rel", False))


def inputs(arrays: dict, step: int):
    at = group(arrays, f"input/step{step}")
    return {name: paddle.to_tensor(value) for name, value in at.items()}


def test_eval_mode_logits_features_attention_and_taps(fixture_path):
    arrays, meta = load_golden(fixture_path)
    model = model_of(meta, arrays)
    model.eval()
    x, expected = inputs(arrays, 1)["x_raw"], group(arrays, "output/eval")
    assert_close_output(model(x), expected["logits"], "logits")
    assert_close_output(model.last_attention(x), expected["last_block_attention"], "attention of the last block")
    assert_close_output(model.features(x), expected["features"], "pooled features")
    assert_close_output(model.patch_tokens(x), expected["patch_tokens"], "patch tokens")
    assert_close_output(model.head(model.patch_tokens(x)), expected["logits_patch_tokens"], "logits of every patch")
    _, taps = model.forward_tokens(x, taps=range(model.depth))
    for i, tokens in taps.items():
        assert_close_output(tokens, expected[f"intermediate_layers/{i}"], f"output of block {i}")


def test_the_soft_targets_of_a_mixed_batch(fixture_path):
    arrays, meta = load_golden(fixture_path)
    at, c = inputs(arrays, 1), meta["config"]
    got = soft_targets(at["y"].numpy(), c["num_classes"], lam=float(at["lam"]), smoothing=c["smoothing"])
    np.testing.assert_allclose(got, at["soft_target"].numpy(), atol=1e-6)


def test_losses_and_gradients(fixture_path, formulation):
    arrays, meta = load_golden(fixture_path)
    c = meta["config"]
    for targets, images, expected, gradients in (
        ("soft_target", "x", float(arrays["output/losses"][0]), "grad"),
        (None, "x_raw", float(arrays["output/label_smoothing/loss"]), "grad_ls"),
    ):
        model, at = model_of(meta, arrays), inputs(arrays, 1)
        model.train()
        target = at[targets].numpy() if targets else soft_targets(at["y"].numpy(), c["num_classes"],
                                                                  smoothing=c["smoothing"])
        loss = soft_cross_entropy(model(at[images]), paddle.to_tensor(target))
        assert_close_output(float(loss), expected, "loss")
        loss.backward()
        reference = from_official(group(arrays, gradients))
        for name, parameter in model.named_parameters():
            assert_close_grad(parameter.grad, reference[name], name)
        if targets:
            assert_close_output(float(global_norm(model.parameters())), float(arrays["output/grad_norm"].ravel()[0]),
                                "gradient norm")


def test_rate_and_decay_of_every_parameter(fixture_path):
    arrays, meta = load_golden(fixture_path)
    c, model = meta["config"], model_of(meta, arrays)
    groups = parameter_groups(model, weight_decay=c["weight_decay"], no_decay=spared(model, c),
                              lr_scale=layer_decay_scale(c["depth"], c["layer_decay"]))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (g["learning_rate"], g["weight_decay"]) for g in groups for p in g["params"]}
    expected = meta["param_groups_name_to_lrscale_wd"]
    assert set(found) == set(expected)
    for name, (scale, decay) in expected.items():
        assert found[name] == pytest.approx((scale, decay), rel=1e-9), name
    assert all(g[DECAYS] == (g["weight_decay"] > 0) for g in groups)


def test_adamw_steps_with_layer_decay(fixture_path):
    arrays, meta = load_golden(fixture_path)
    c, model = meta["config"], model_of(meta, arrays)
    model.train()
    optimizer = build_optimizer("adamw", model, lr=c["lr"], weight_decay=c["weight_decay"], betas=tuple(c["betas"]),
                                eps=c["eps"], no_decay=spared(model, c),
                                lr_scale=layer_decay_scale(c["depth"], c["layer_decay"]))
    before = from_official(group(arrays, "init"))
    rates = arrays["schedule/lr_used"]
    total = 0.0
    for step in range(1, c["steps"] + 1):
        at, rate = inputs(arrays, step), float(np.ravel(rates)[step - 1])
        optimizer.set_lr(rate)
        loss = soft_cross_entropy(model(at["x"]), at["soft_target"])
        assert_close_output(float(loss), float(arrays["output/losses"][step - 1]), f"loss of step {step}")
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        total += rate
        if f"step{step}/cls_token" in arrays:
            reference = from_official(group(arrays, f"step{step}"))
            for name, parameter in model.named_parameters():
                assert_close_update(before[name], parameter, reference[name], name, 0.1 * max(total, 1e-9) + 1e-9)


def test_other_image_sizes_are_served_or_refused_as_officially(fixture_path):
    arrays, meta = load_golden(fixture_path)
    model = model_of(meta, arrays)
    model.eval()
    for height, width in meta["config"]["other_sizes"]:
        key = f"{height}x{width}"
        if key in meta["raises"]:
            with pytest.raises(ShapeError, match="patches"):
                model(paddle.zeros([1, 3, height, width]))
            continue
        logits = model(paddle.to_tensor(arrays[f"input/other_size/{key}/x"]))
        assert_close_output(logits, arrays[f"output/other_size/{key}/logits"], key)
