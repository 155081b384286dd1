# SPDX-License-Identifier: Apache-2.0
"""Plans of fine-tuning and linear-probe runs against the built models."""

from __future__ import annotations

import json
from pathlib import Path

import paddle
import pytest
from plain_layers import use_plain_layers
from typer.testing import CliRunner

from beitv2_cls.assembly import build_classifier
from beitv2_cls.linear_probe import LinearProbes
from beitv2_cls.losses import soft_cross_entropy
from beitv2_cls.plugins.plan import planned_finetuning, planned_linear_probe
from beitv2_core import cli
from beitv2_core.assembly.dry_run import saved_for_backward
from beitv2_core.config import load_config, parse_config
from beitv2_core.errors import ConfigError
from beitv2_core.planning.cost import LayerCosts

FILES = sorted((Path(__file__).resolve().parents[3] / "configs/cls").glob("*.yml"))
MORE = ["model.num_classes=1000", "--images", "14197122"]
RUN = {"output": "none", "optim": {"lr": 1.0, "steps": 1}, "pretrained": {"weights": None}}
SIZES = {"small": (24, 48, 2, 3), "larger": (48, 128, 4, 4)}


def config_of(kind: str, size: str, *, train=None, **model):
    image_size, width, depth, heads = SIZES[size]
    return parse_config({
        **RUN, "kind": kind, "data": {"dataset": "digit_scenes", "size": 8, "image_size": image_size},
        "train": {"batch_size": 2, **(train or {})},
        "model": {"width": width, "depth": depth, "num_heads": heads, "patch_size": 8, "init_values": 0.1, **model}})


def cost_of(config, plan=planned_finetuning):
    return plan(config, images=8, devices=1).costs(LayerCosts())


def count(model) -> int:
    return sum(parameter.size for parameter in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"pooling": "cls"}, {"positions": "absolute"}, {"num_classes": 7}])
def test_a_classifier_has_the_planned_parameters_and_buffers(changes):
    config = config_of("finetune", "small", **changes)
    model, cost = build_classifier(config, config.model.num_classes or 10), cost_of(config)[0]
    assert planned_finetuning(config, images=8, devices=1).parameters == (count(model), 0)
    assert cost.buffer_bytes == sum(tensor.size * tensor.element_size() for tensor in model.buffers())


def test_linear_probes_and_their_frozen_trunk_have_the_planned_parameters():
    config = config_of("linear_probe", "small")
    trunk = build_classifier(config, 10)
    probes = LinearProbes(trunk, num_classes=10, features=config.probe.features, layers=[0, 1],
                          rates=config.probe.rates)
    assert planned_linear_probe(config, images=8, devices=1).parameters == (count(probes), count(trunk))
    frozen = cost_of(config, planned_linear_probe)[1]
    assert (frozen.kept_bytes, frozen.backward_flop) == (0, 0)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_fine_tuning_saves_what_the_formula_says(monkeypatch, size, recompute):
    use_plain_layers(monkeypatch)
    config = config_of("finetune", size, train={"recompute": recompute}, drop_path=0.2)
    model, batch, side = build_classifier(config, 10), 3, SIZES[size][0]
    images, targets = paddle.randn([batch, 3, side, side]), paddle.full([batch, 10], 0.1)
    counted = saved_for_backward(model, lambda: soft_cross_entropy(model(images), targets))
    assert cost_of(config)[0].bytes_after_forward(batch, recompute) == pytest.approx(counted, rel=0.05)


def test_a_base_fine_tuning_step_is_the_official_work():
    recipe = Path(__file__).resolve().parents[3] / "configs/cls/finetune_base_1600e_in1k.yml"
    config = load_config(recipe, ["data.root=none", "pretrained.weights=none", "model.num_classes=1000"])
    cost = planned_finetuning(config, images=10**6, devices=1).costs(LayerCosts())[0]
    assert cost.step_flop(False) / 1e9 == pytest.approx(105.2, rel=0.02)


def test_unknown_classes_are_named():
    config = config_of("finetune", "small")
    config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": "folder", "root": "gone"})})
    with pytest.raises(ConfigError, match="model.num_classes: not set"):
        planned_finetuning(config, images=8, devices=1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_settings_file_has_a_plan_without_data_and_weights(path):
    more = [] if "digit_scenes" in path.name else MORE
    result = CliRunner().invoke(cli.app, ["plan", str(path), *more, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["parameters"]["trained"] > 1e4
    assert found["work"]["pflop_days"] > 0
    assert [column["configured"] for column in found["memory"]].count(True) == 1
