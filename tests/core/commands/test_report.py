# SPDX-License-Identifier: Apache-2.0
"""`beitv2 report` finds both stages by one folder, and its verdict is on folders only."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from untrained_runs import pretraining, tokenizer

from beitv2_core.api.evaluate import both_stages, evaluate, verdict_of, write_summary
from beitv2_core.assembly import restore
from beitv2_core.errors import ConfigError


def test_one_folder_names_both_stages_and_a_pretraining_run_its_tokenizer(tmp_path, monkeypatch):
    for stage in ("tokenizer", "pretrain"):
        (tmp_path / stage).mkdir()
    assert both_stages(str(tmp_path)) == (str(tmp_path / "tokenizer"), str(tmp_path / "pretrain"))
    monkeypatch.setattr(restore, "read_config", lambda run: SimpleNamespace(
        kind="pretrain", tokenizer=SimpleNamespace(weights="runs/codes")))
    assert both_stages("runs/mine") == ("runs/codes", "runs/mine")
    monkeypatch.setattr(restore, "read_config", lambda run: SimpleNamespace(kind="tokenizer"))
    with pytest.raises(ConfigError, match="runs/mine: a 'tokenizer' run alone.*Give the tokenizer's run and"):
        both_stages("runs/mine")


def test_a_checkpoint_or_a_file_has_no_verdict(tmp_path):
    (tmp_path / "file.safetensors").write_bytes(b"")
    assert verdict_of(str(tmp_path), str(tmp_path / "file.safetensors")) is None


def test_a_new_report_of_both_stages_takes_the_verdict_of_the_old_one_with_it(tmp_path):
    old, new = ({"state": state, "sentences": []} for state in ("too few test images to tell", "healthy"))
    for before in ({"verdict": old, "seconds": {"total": 9.0}}, {"steps": 3}):
        (tmp_path / "summary.json").write_text(json.dumps(before))
        write_summary(tmp_path / "summary.json", {"images": 30, "verdict": new})
        after = json.loads((tmp_path / "summary.json").read_text())
        assert after["report"]["verdict"] == new
        assert after == {**before, **({"verdict": new} if "verdict" in before else {}), "report": after["report"]}


def test_a_tokenizer_of_another_grid_than_the_backbone_s_is_named_with_both(tmp_path):
    codes = tokenizer(tmp_path / "tokenizer")
    backbone = pretraining(tmp_path / "pretrain", "model.patch_size=16", "mask.num_masked=1", "mask.min_block=1")
    with pytest.raises(ConfigError, match="tokenizer: cuts an image into 4 x 4 patches, .*pretrain into 2 x 2. Give"):
        evaluate(codes, backbone, images=8)
