# SPDX-License-Identifier: Apache-2.0
"""The settings that the page on own data shows are settings: laid over the example that the page is about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from beitv2_core.errors import BEiTError
from beitv2_seg.config import find_config, read_config_file
from beitv2_seg.paddleseg.components import argument_names, find_component

PAGE = Path(__file__).resolve().parents[3] / "docs" / "segmentation.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_shows_settings_of_every_form():
    assert len(BLOCKS) >= 12


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition(":")[0] + str(len(block)))
def test_a_block_of_the_page_laid_over_the_example_is_valid(tmp_path, block):
    (tmp_path / "block.yml").write_text(f"_base_: {find_config('own_data')}\n{block}", encoding="utf-8")
    config = read_config_file(str(tmp_path / "block.yml"))
    known = argument_names(find_component("Dataset", "train_dataset"))
    for part in (config.train_dataset, config.val_dataset):
        assert set(part.options()) <= set(known)


def test_the_whole_file_of_the_page_differs_from_the_example_in_classes_and_folders_alone(tmp_path):
    """So it trains as the example does (tests/seg/data/test_own_data.py)."""
    [block] = [block for block in BLOCKS if "batch_size:" in block]
    (tmp_path / "whole.yml").write_text(block, encoding="utf-8")
    found, example = (read_config_file(str(path)).model_dump() for path in (tmp_path / "whole.yml",
                                                                           find_config("own_data")))
    assert (found.pop("classes"), found.pop("ignore_index")) == (["sky", "road", "car", "tree"], 255)
    assert found["model"].pop("num_classes") == 4
    for key in ("classes", "ignore_index"):
        example.pop(key)
    example["model"].pop("num_classes")
    for config, root in ((found, "DATA"), (example, "data")):
        assert [config[part].pop("dataset_root") for part in ("train_dataset", "val_dataset")] == [root, root]
    assert found == example


def test_a_block_with_a_misspelt_key_would_not_be(tmp_path):
    (tmp_path / "block.yml").write_text(f"_base_: {find_config('own_data')}\nheld_ot: 0.2\n", encoding="utf-8")
    with pytest.raises(BEiTError, match="held_out"):
        read_config_file(str(tmp_path / "block.yml"))
