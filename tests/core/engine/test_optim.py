# SPDX-License-Identifier: Apache-2.0
"""Parameter groups, AdamW by the formula, and optimizer state by structured names."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from beitv2_core.engine.optim import (
    build_optimizer,
    layer_decay_scale,
    layer_of,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_weight_decay,
)
from beitv2_core.errors import CheckpointError, ConfigError


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.mask_token = self.create_parameter([1, 1, 3])
        self.pos_embed = self.create_parameter([1, 2, 3])
        self.frozen = self.create_parameter([2, 2])
        self.frozen.stop_gradient = True

    def forward(self, x):
        return ((self.norm(self.fc(x)) * self.mask_token[0]) ** 2).sum() + (self.pos_embed ** 3).sum()


def groups_of(model, **options):
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    return {names[p.name]: (group["weight_decay"], group["learning_rate"])
            for group in parameter_groups(model, weight_decay=0.05, **options) for p in group["params"]}


def test_groups_follow_the_official_rule():
    found = groups_of(Net(), no_decay={"pos_embed"})
    assert found == {"fc.weight": (0.05, 1.0), "mask_token": (0.05, 1.0), "fc.bias": (0.0, 1.0),
                     "norm.weight": (0.0, 1.0), "norm.bias": (0.0, 1.0), "pos_embed": (0.0, 1.0)}


def test_layer_decay_scales_the_rate_of_each_name():
    found = groups_of(Net(), lr_scale=lambda name: 0.5 if name.startswith("fc") else 1.0)
    assert found["fc.weight"] == (0.05, 0.5) and found["fc.bias"] == (0.0, 0.5) and found["mask_token"] == (0.05, 1.0)


def test_adamw_follows_the_formula_under_changing_rate_and_decay():
    """torch's AdamW: p *= 1 - lr * wd; p -= lr * m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + eps)."""
    model = Net()
    optimizer = build_optimizer("adamw", model, lr=1.0, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-8)
    decays = {"fc.weight", "mask_token", "pos_embed"}
    values = {name: p.numpy().astype(np.float64) for name, p in model.named_parameters() if not p.stop_gradient}
    m = {name: 0.0 for name in values}
    v = {name: 0.0 for name in values}
    for t in range(1, 6):
        lr, decay = 1e-2 / t, 0.1 * t
        optimizer.set_lr(lr)
        set_weight_decay(optimizer, decay)
        model(paddle.rand([5, 4])).backward()
        for name, parameter in model.named_parameters():
            if parameter.stop_gradient:
                continue
            g = parameter.grad.numpy().astype(np.float64)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.98 * v[name] + 0.02 * g * g
            values[name] *= 1 - lr * (decay if name in decays else 0.0)
            values[name] -= lr * m[name] / (1 - 0.9 ** t) / (np.sqrt(v[name]) / np.sqrt(1 - 0.98 ** t) + 1e-8)
        optimizer.step()
        optimizer.clear_grad()
    for name, parameter in model.named_parameters():
        if name in values:
            np.testing.assert_allclose(parameter.numpy(), values[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_state_continues_exactly_in_a_model_built_after_other_layers(kind):
    def steps(model, optimizer, numbers):
        for number in numbers:
            paddle.seed(number)
            model(paddle.rand([5, 4])).backward()
            optimizer.step()
            optimizer.clear_grad()

    def make():
        model = Net()
        return model, build_optimizer(kind, model, lr=1e-2, weight_decay=0.1)

    whole, optimizer = make()
    steps(whole, optimizer, range(3))
    weights, state = {k: p.numpy() for k, p in whole.state_dict().items()}, optimizer_state(optimizer, whole)
    assert all(key.split("/", 1)[1] in weights for key in state)
    steps(whole, optimizer, range(3, 6))
    nn.Linear(7, 7)  # shifts Paddle's automatic names
    resumed, optimizer = make()
    resumed.set_state_dict({k: paddle.to_tensor(w) for k, w in weights.items()})
    load_optimizer_state(optimizer, resumed, state)
    steps(resumed, optimizer, range(3, 6))
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name].numpy(), value.numpy(), err_msg=name)


def test_state_of_another_model_is_refused_with_names():
    model = Net()
    optimizer = build_optimizer("adamw", model, lr=1e-2, weight_decay=0.1)
    with pytest.raises(CheckpointError, match="moment1_0/other"):
        load_optimizer_state(optimizer, model, {"moment1_0/other": np.zeros(3, dtype=np.float32)})


def test_unknown_kinds_and_models_with_nothing_to_train_are_named():
    with pytest.raises(ConfigError, match="adamw, adam, sgd"):
        build_optimizer("lion", Net(), lr=1.0, weight_decay=0.0)
    model = Net()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer("adamw", model, lr=1.0, weight_decay=0.0)


def test_layers_count_from_the_embeddings_to_the_head():
    assert [layer_of(name, 12) for name in ("cls_token", "patch_embed.proj.bias", "blocks.0.gamma_1",
                                            "blocks.11.attn.qkv.weight", "fc_norm.weight", "head.bias")] == [
        0, 0, 1, 12, 13, 13]
    assert layer_decay_scale(12, 0.65)("head.bias") == 1.0
    assert layer_decay_scale(2, 0.5)("cls_token") == 0.125
    assert [layer_of(name, 12, trunk="backbone.") for name in (
        "backbone.cls_token", "backbone.blocks.3.gamma_1", "blocks.3.gamma_1", "decode_head.weight")] == [0, 4, 13, 13]
