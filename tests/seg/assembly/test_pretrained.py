# SPDX-License-Identifier: Apache-2.0
"""What a pretrained run decides is taken from it; a setting that contradicts it is named; comparing both starts."""

from __future__ import annotations

import json
import re

import pytest
from own_data import config_file, write_data
from paddle import nn
from seg_runs import segment

from beitv2_core.assembly import build_training
from beitv2_core.assembly.restore import save_untrained
from beitv2_core.config import parse_config
from beitv2_core.errors import ConfigError
from beitv2_seg.assembly import build_model, build_segmentation
from beitv2_seg.assembly.pretrained import with_pretrained_settings
from beitv2_seg.config import read_config_file

DATA = {"dataset": "digit_scenes", "size": 8, "image_size": 24}
TRUNK = {"width": 12, "depth": 4, "num_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A backbone of 4 blocks of width 12, pretrained for a step on images of 24 x 24 pixels."""
    folder = tmp_path_factory.mktemp("pretrained")
    common = {"optim": {"lr": 1e-3, "steps": 1}, "train": {"batch_size": 4}, "data": DATA}
    save_untrained(parse_config({
        "kind": "tokenizer", "output": str(folder / "tokens"), "encoder": TRUNK,
        "decoder": {"width": 12, "depth": 1, "num_heads": 2},
        "quantizer": {"num_codes": 16, "code_dim": 4}, "teacher": {"name": "hog"}, **common}), teacher_width=5)
    build_training(parse_config({
        "kind": "pretrain", "output": str(folder / "run"), "model": {**TRUNK, "early_layers": 2, "init_values": 0.1},
        "tokenizer": {"weights": str(folder / "tokens")}, "mask": {"num_masked": 4, "min_block": 1}, **common})).run()
    return folder / "run"


@pytest.fixture
def data(tmp_path):
    write_data(tmp_path / "data")
    return tmp_path / "data"


class OneLayer(nn.Layer):
    """A head that takes nothing but classes and backbone."""

    def __init__(self, num_classes, backbone):
        super().__init__()
        self.num_classes, self.backbone = num_classes, backbone
        self.classify = nn.Conv2D(backbone.feat_channels[0], num_classes, 1)


def test_a_head_without_channels_starts_from_a_pretrained_model(data, tmp_path, pretrained, offer):
    offer("beitv2.segment.models", OneLayer=OneLayer)
    path = config_file(data, tmp_path, output=str(tmp_path / "run"))
    config = read_config_file(str(path), opts=["model={_inherited_: false, type: OneLayer, num_classes: 3, "
                                               f"backbone: {{type: BEiTv2, pretrained: {pretrained}}}}}"])
    found = with_pretrained_settings(config).model
    assert found.backbone.options()["depth"] == 4 and "channels" not in found.options()
    assert build_model(with_pretrained_settings(config), pretrained=False).classify.weight.shape[:2] == [3, 12]


def test_width_depth_heads_patch_layer_scale_size_and_channels_follow_the_run(data, tmp_path, pretrained, caplog):
    path = config_file(data, tmp_path, model__backbone={"type": "BEiTv2", "pretrained": str(pretrained)},
                       output=str(tmp_path / "run"))
    config = read_config_file(str(path), opts=["model={_inherited_: false, type: BEiTv2UPerNet, num_classes: 3, "
                                               "pool_scales: [1, 2], backbone: {type: BEiTv2, pretrained: "
                                               f"{pretrained}}}}}"])
    backbone = with_pretrained_settings(config).model.backbone.options()
    assert {name: backbone[name] for name in TRUNK} == TRUNK
    assert backbone["init_values"] == 0.1 and list(backbone["image_size"]) == [32, 32]  # of the crops
    with caplog.at_level("INFO", "beitv2_seg"), pytest.warns() as warned:
        import warnings

        warnings.warn("at least one", stacklevel=1)
        loop = build_segmentation(config)
    assert loop.config["model"]["channels"] == 12 and loop.config["model"]["backbone"]["depth"] == 4
    assert not [item for item in warned if "Skip loading" in str(item.message)]
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("backbone: ")]
    assert str(pretrained) in line and "tensors" in line


@pytest.mark.parametrize(("given", "facts"), [
    ({"width": 24}, ("model.backbone.width", "24", "12")),
    ({"size": "tiny"}, ("model.backbone.size", "tiny", "12")),
    ({"patch_size": 16}, ("model.backbone.patch_size", "16", "8")),
    ({"init_values": None}, ("model.backbone.init_values", "None", "0.1")),
    ({"pretrained_image_size": 224}, ("model.backbone.pretrained_image_size", "224", "24")),
])
def test_a_setting_that_contradicts_the_run_is_named_with_both_values(data, tmp_path, pretrained, given, facts):
    backbone = {"type": "BEiTv2", "pretrained": str(pretrained), **given}
    with pytest.raises(ConfigError) as error:
        with_pretrained_settings(read_config_file(str(config_file(data, tmp_path, model__backbone=backbone))))
    for fact in (*facts, str(pretrained)):
        assert fact in str(error.value)


def test_compare_takes_iters_and_opts_gives_both_one_size_and_refuses_another_comparison(data, tmp_path, pretrained,
                                                                                        monkeypatch):
    monkeypatch.setattr("beitv2_core.commands.trials.SAY_EVERY_S", 2.0)
    path = config_file(data, tmp_path, model__backbone={"type": "BEiTv2"})
    given = ["compare", path, "--pretrained", pretrained, "--output", tmp_path / "both"]
    output = segment(*given, "--iters", 2, "--opts", "batch_size=1", "optimizer.layer_decay=0.8")
    assert "difference" in output
    assert "compare: 0 of 2 runs finished" in output and "compare: 2 of 2 runs finished" in output
    assert re.search(r"aAcc +classes$", output, re.MULTILINE) and re.search(r"% {2,}\d of 3$", output, re.M), output
    assert (tmp_path / "both" / "figures" / "compare.png").is_file()
    for start in ("pretrained", "scratch"):
        made = json.loads((tmp_path / "both" / start / "summary.json").read_text())
        assert made["steps"] == 2
    again = segment(*given, "--iters", 3, "--opts", "batch_size=1", "optimizer.layer_decay=0.8", code=2)
    assert "iters: 2 -> 3" in again
