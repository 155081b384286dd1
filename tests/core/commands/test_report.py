# SPDX-License-Identifier: Apache-2.0
"""`beitv2 report` finds both stages by one folder, and its verdict is on folders only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from beitv2_core.api.evaluate import both_stages, verdict_of
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
