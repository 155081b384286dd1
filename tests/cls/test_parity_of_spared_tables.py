"""The parity test of fine-tuning reads whether its fixture was made with `--disable_weight_decay_on_rel_pos_bias`."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("parity_of_finetuning", TESTS / "parity/test_finetune.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fixture_with(folder: Path, *, spared: bool, decays: bool) -> Path:
    """A copy of the golden whose settings, and whose expected decay of the tables, are changed."""
    for ending in ("npz", "json"):
        shutil.copy(TESTS / f"goldens/finetune.{ending}", folder)
    meta = json.loads((folder / "finetune.json").read_text())
    meta["config"]["no_wd_rel"] = spared
    for name, rates in meta["param_groups_name_to_lrscale_wd"].items():
        if name.endswith("relative_position_bias_table"):
            rates[1] = meta["config"]["weight_decay"] if decays else 0.0
    (folder / "finetune.json").write_text(json.dumps(meta))
    return folder / "finetune.json"


@pytest.mark.parametrize("spared", [True, False])
def test_tables_are_spared_where_the_fixture_says_so(parity, tmp_path, spared):
    parity.test_rate_and_decay_of_every_parameter(fixture_with(tmp_path, spared=spared, decays=not spared))


def test_another_decay_than_the_fixtures_is_noticed(parity, tmp_path):
    with pytest.raises(AssertionError, match="relative_position_bias_table"):
        parity.test_rate_and_decay_of_every_parameter(fixture_with(tmp_path, spared=True, decays=True))
