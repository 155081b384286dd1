# SPDX-License-Identifier: Apache-2.0
"""Packaged files are found by name, in a checkout and in an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from beitv2_core.errors import ConfigError
from beitv2_seg.config import PACKAGED, find_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "seg"


def test_the_packaged_files_are_those_of_the_repository():
    files = {path.name: path.read_bytes() for path in CONFIGS.glob("*.yml")}
    assert files and {path.name: path.read_bytes() for path in PACKAGED.glob("*.yml")} == files


def test_a_packaged_file_is_found_with_and_without_its_ending_and_a_file_of_ones_own_wins(tmp_path, monkeypatch):
    assert find_config("beitv2_upernet") == find_config("beitv2_upernet.yml") == PACKAGED / "beitv2_upernet.yml"
    monkeypatch.chdir(tmp_path)
    Path("beitv2_upernet.yml").write_text("batch_size: 1\n")
    assert find_config("beitv2_upernet.yml") == Path("beitv2_upernet.yml")


def test_an_unknown_name_is_told_with_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean beitv2_upernet.yml"):
        find_config("beitv2_uppernet.yml")
