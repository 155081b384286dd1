# SPDX-License-Identifier: Apache-2.0
"""`--verify-every` sets the stages that are trained; `beitv2 replay` says what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.api import train

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
runner = CliRunner()


@pytest.fixture
def asked(monkeypatch):
    """What would be trained: the settings, or the changes to those that are chosen."""
    calls = []

    def pretrain(source, output=None, *, set=(), **options):
        calls.append((source, list(set)))

    monkeypatch.setattr(train, "pretrain", pretrain)
    return calls


@pytest.mark.parametrize("command", [["train-tokenizer", "tokenizer"], ["pretrain", "pretrain"]])
def test_verify_every_is_a_setting_of_the_stage(asked, command):
    path = CONFIGS / command[1] / "digit_scenes.yml"
    result = runner.invoke(cli.app, [command[0], str(path), "--verify-every", "7"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (settings, changes), = asked
    assert (settings.train.verify_every, settings.train.check_every, changes) == (7, 100, [])


def test_verify_every_is_a_setting_of_both_stages_of_own_images(asked, tmp_path):
    runner.invoke(cli.app, ["pretrain", str(tmp_path), "-o", str(tmp_path / "run"), "--verify-every", "7"],
                  catch_exceptions=False)
    assert asked == [(str(tmp_path), ["tokenizer.train.verify_every=7", "pretrain.train.verify_every=7"])]


def test_a_file_without_a_saved_step_ends_in_one_line(tmp_path):
    path = tmp_path / "failing_batch_step_3_rank_0.npz"
    np.savez(str(path), x=np.zeros(3))
    result = runner.invoke(cli.app, ["replay", str(path)])
    assert result.exit_code == 2 and "Earlier versions saved the batch alone" in result.output
    for told in ("[" * 100_000, '{"number": 0, "batches": 1000000000}', '{"number": -1, "batches": 1}', "[]"):
        np.savez(str(path), replay=np.array(told), x=np.zeros(3))
        result = runner.invoke(cli.app, ["replay", str(path)])
        assert result.exit_code == 2 and "the saved step cannot be read" in result.output, told[:40]
    result = runner.invoke(cli.app, ["replay", str(tmp_path / "none.npz")])
    assert result.exit_code == 2 and "cannot be read" in result.output
