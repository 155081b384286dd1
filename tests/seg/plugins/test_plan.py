# SPDX-License-Identifier: Apache-2.0
"""Plans of segmentation runs against the built model and the tensors Paddle saves."""

from __future__ import annotations

import json
from pathlib import Path

import paddle
import pytest
import yaml
from plain_layers import use_plain_layers
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.assembly.dry_run import saved_for_backward
from beitv2_core.config import load_config
from beitv2_core.config.load import kind_of, read_tree
from beitv2_core.errors import ConfigError
from beitv2_core.planning.cost import LayerCosts
from beitv2_seg.assembly import build_model, plan_accumulation
from beitv2_seg.config import SegmentConfig, read_config_file
from beitv2_seg.model.losses import pixel_cross_entropy
from beitv2_seg.plugins.plan import planned_segmentation

FILES = sorted((Path(__file__).resolve().parents[3] / "configs/seg").glob("*.yml"))
MORE = ["--images", "20210"]
#: (pixels, width, heads, head channels, dropout); patches of 16 pixels, four blocks
SIZES = {"small": (64, 24, 3, 12, 0.1), "larger": (96, 48, 4, 32, 0.0)}


def settings(size: str, patch: int = 16, *more: str):
    pixels, width, heads, channels, dropout = SIZES[size]
    tables = [f"train_dataset.image_size={pixels}", f"val_dataset.image_size={pixels}"]
    return read_config_file("digit_scenes", opts=[
        f"model.backbone.image_size={pixels}", f"model.backbone.patch_size={patch}", f"model.backbone.width={width}",
        "model.backbone.depth=4", f"model.backbone.num_heads={heads}", "model.backbone.out_indices=[0,1,2,3]",
        f"model.channels={channels}", f"model.aux_channels={channels}", f"model.dropout={dropout}",
        "model.backbone.init_values=0.1", "model.backbone.pretrained=null", *tables, *more])


def cost_of(config):
    return planned_segmentation(config, images=None, devices=1).costs(LayerCosts())[0]


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_a_segmentor_has_the_planned_parameters_and_buffers(size, patch):
    config = settings(size, patch)
    model, cost = build_model(config, pretrained=False), cost_of(config)
    trained = sum(p.size for p in model.parameters() if not p.stop_gradient)
    assert planned_segmentation(config, images=None, devices=1).parameters == (trained, 0)
    statistics = [p for p in model.parameters() if p.stop_gradient]  # of the batch norms
    named = {tensor.name: tensor for tensor in [*statistics, *model.buffers()]}
    assert cost.buffer_bytes == sum(tensor.size * tensor.element_size() for tensor in named.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_segmentation_saves_what_the_formula_says(monkeypatch, size, patch, recompute):
    use_plain_layers(monkeypatch)
    config = settings(size, patch, f"model.backbone.recompute={recompute}")
    pixels, batch, model = SIZES[size][0], 2, build_model(config, pretrained=False)
    images, labels = paddle.randn([batch, 3, pixels, pixels]), paddle.zeros([batch, pixels, pixels], dtype="int64")
    counted = saved_for_backward(model, lambda: [pixel_cross_entropy(part, labels) for part in model(images)])
    assert cost_of(config).bytes_after_forward(batch, recompute) == pytest.approx(counted, rel=0.05)


def test_the_recipe_is_the_official_work():
    cost = cost_of(read_config_file("beitv2_upernet"))
    assert cost.forward_flop / 1e9 == pytest.approx(1210, rel=0.02)
    assert cost.step_flop(False) / 1e9 == pytest.approx(3640, rel=0.02)


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_the_schedule_is_the_trainings_own(devices):
    config = read_config_file("beitv2_upernet")
    schedule = planned_segmentation(config, images=20_210, devices=devices).schedule
    assert schedule.accumulate == plan_accumulation(config, devices)
    assert (schedule.total_batch, schedule.total_steps, schedule.steps_per_epoch) == (16, 160_000, 1263)


@pytest.mark.parametrize(("more", "message"), [
    ("optimizer={type: SGD}", "optimizer.type: what 'SGD' costs is not known. Known: BEiTv2AdamW"),
    ("model.backbone.size=giant", "model.backbone.size: 'giant' is not known"),
    ("model.chanels=3", "unknown key 'chanels' of BEiTv2UPerNet"),
])
def test_what_cannot_be_planned_is_named(more, message):
    with pytest.raises(ConfigError, match=message):
        planned_segmentation(settings("small", 16, more), images=None, devices=1)


def test_a_total_batch_that_the_devices_do_not_divide_is_named():
    with pytest.raises(ConfigError, match=r"total_batch: 16 is not a multiple of 2 images x 16 process\(es\) = 32"):
        planned_segmentation(read_config_file("beitv2_upernet"), images=None, devices=16)


def test_paddlesegs_yaml_is_recognised_by_its_keys():
    assert {kind_of(read_tree(path)[0]) for path in FILES} == {"segment"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_settings_file_has_a_plan_without_data_and_weights(path):
    more = [] if "digit_scenes" in path.name else MORE
    result = CliRunner().invoke(cli.app, ["plan", str(path), *more, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["parameters"]["trained"] > 1e4
    assert found["work"]["pflop_days"] > 0
    assert [column["configured"] for column in found["memory"]].count(True) == 1


@pytest.mark.parametrize("name", ["digit_scenes.yml", "own_data.yml", "beitv2_upernet.yml"])
def test_the_settings_of_a_yaml_without_a_kind_are_shown_and_read_back(name):
    shown = CliRunner().invoke(cli.app, ["config", str(FILES[0].parent / name), "--set", "batch_size=3"])
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.output.splitlines() if line.startswith("batch_size: 3 ")]
    assert len(lines) == 1 and lines[0].endswith("# --set")
    read = SegmentConfig.model_validate(yaml.safe_load(shown.stdout))
    assert read == load_config(FILES[0].parent / name, ["batch_size=3"], SegmentConfig)
