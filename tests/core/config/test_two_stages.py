# SPDX-License-Identifier: Apache-2.0
"""The settings of a run of both stages: one file, folders that follow from `output`, errors that name the key."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.config import TwoStagesConfig, load_config
from beitv2_core.errors import ConfigError

DATA = "{dataset: digit_scenes, size: 64, image_size: 32}"
TEXT = f"""
kind: two_stages
output: runs/both
tokenizer:
  data: {DATA}
  encoder: {{width: 24, depth: 1, num_heads: 3, patch_size: 8}}
  decoder: {{width: 24, depth: 1, num_heads: 3}}
  teacher: {{name: hog}}
  optim: {{lr: 1e-3, steps: 10}}
  train: {{batch_size: 4}}
pretrain:
  data: {DATA}
  model: {{width: 24, depth: 2, num_heads: 3, patch_size: 8}}
  mask: {{num_masked: 6, min_block: 2}}
  optim: {{lr: 1e-3, steps: 10}}
  train: {{batch_size: 4}}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "both.yml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def test_folders_and_the_tokenizer_follow_from_output(path):
    for output, overrides in (("runs/both", []), ("elsewhere", ["output=elsewhere"])):
        config = load_config(path, overrides)
        assert isinstance(config, TwoStagesConfig)
        assert config.tokenizer.output == config.pretrain.tokenizer.weights == f"{output}/tokenizer"
        assert config.pretrain.output == f"{output}/pretrain"


def test_the_resolved_settings_read_back_the_same_and_move_with_output(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yml").write_text(yaml.safe_dump(config.resolved()), encoding="utf-8")
    assert load_config(tmp_path / "again.yml") == config
    moved = load_config(tmp_path / "again.yml", ["output=moved"])
    assert moved.pretrain.tokenizer.weights == "moved/tokenizer"


@pytest.mark.parametrize(("override", "message"), [
    ("tokenizer.optim.stepz=3", "tokenizer.optim.stepz: unknown key. Did you mean 'steps'?"),
    ("pretrain.modle.width=48", "pretrain.modle: unknown key. Did you mean 'model'?"),
    ("pretrain.output=x", "pretrain.output: 'x' came; it follows from output and is 'runs/both/pretrain'. Leave it"),
    ("pretrain.tokenizer.weights=x", "pretrain.tokenizer.weights: 'x' came"),
    ("pretrain.model.patch_size=4", "pretrain.model.patch_size: the tokenizer cuts an image into (4, 4) patches"),
    ("pretrain.mask.num_masked=16", "pretrain.mask.num_masked: 16 masked of 16 patches"),
])
def test_errors_name_the_key_of_the_stage(path, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(path, [override])
    assert message in str(error.value)


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain"])
def test_images_to_measure_on_are_asked_for_before_training_and_not_at_its_end(path, stage):
    folder = [f"{stage}.data.{value}" for value in ("dataset=folder", "root=photos", "size=null")]
    with pytest.raises(ConfigError, match=f"{stage}.data.held_out: null came, but the report at the end"):
        load_config(path, folder)
    load_config(path, [*folder, f"{stage}.data.held_out=4"])


def test_beitv2_config_shows_both_stages_and_its_output_reads_back(path, tmp_path):
    shown = CliRunner().invoke(cli.app, ["config", str(path), "--set", "pretrain.optim.steps=20"])
    assert shown.exit_code == 0, shown.output
    (tmp_path / "shown.yml").write_text(shown.stdout, encoding="utf-8")
    assert load_config(tmp_path / "shown.yml") == load_config(path, ["pretrain.optim.steps=20"])
    assert "# --set" in shown.stdout and str(path) in shown.stdout
