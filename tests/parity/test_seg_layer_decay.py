# SPDX-License-Identifier: Apache-2.0
"""Rate and weight decay of every parameter of the official UPerNet configurations, and every parameter's shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from golden_io import load_golden

from beitv2_core.engine.optim import layer_decay_scale, parameter_groups
from beitv2_core.weights.keymaps.official import from_official
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.segmentor import BEiTv2UPerNet

SUBJECT = ("seg_layer_decay", "schemas_seg")


def segmentor(size: str) -> BEiTv2UPerNet:
    large = size == "large"
    backbone = BEiTv2(size=size, drop_path=0.2 if large else 0.15, init_values=1e-6 if large else 0.1)
    return BEiTv2UPerNet(150, backbone, channels=1024 if large else 768)


@pytest.fixture(scope="module")
def models():
    return {}


def built(models: dict, size: str) -> BEiTv2UPerNet:
    if size not in models:
        models[size] = segmentor(size)
    return models[size]


@pytest.mark.parametrize("size", ["base", "large"])
def test_every_parameter_has_the_official_rate_decay_and_shape(fixture_path, models, size):
    meta = load_golden(fixture_path)[1]
    model = built(models, size)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    compared = 0
    for key, recipe in meta.get("configs", {}).items():
        if f"_{size}_" not in key:
            continue
        settings, optimizer = recipe["paramwise_cfg"], recipe["optimizer"]
        groups = parameter_groups(model, weight_decay=optimizer["weight_decay"],
                                  lr_scale=layer_decay_scale(settings["num_layers"], settings["layer_decay_rate"],
                                                             trunk="backbone."))
        found = {names[id(p)]: (g["learning_rate"], g["weight_decay"], g["learning_rate"] * optimizer["lr"])
                 for g in groups for p in g["params"]}
        expected = recipe["name_to_lrscale_wd_lr"]
        assert set(found) == set(expected)
        for name, values in expected.items():
            assert found[name] == pytest.approx(tuple(values), rel=1e-9), name
        compared += 1
    for key, schema in meta.get("models", {}).items():
        if not key.endswith(size):
            continue
        official = {name: np.broadcast_to(np.float32(0), shape) for name, shape in schema["schema"].items()}
        assert {name: list(value.shape) for name, value in model.state_dict().items()} == {
            name: list(value.shape) for name, value in from_official(official).items()}
        trainable = sum(math.prod(p.shape) for p in model.parameters() if not p.stop_gradient)
        assert trainable == schema["trainable_params"]
        assert [b.drop_path.rate for b in model.backbone.blocks] == pytest.approx(schema["drop_path"]["blocks"],
                                                                                  abs=1e-7)
        compared += 1
    if not compared:
        pytest.skip(f"{fixture_path.name} holds nothing of the {size} size")
