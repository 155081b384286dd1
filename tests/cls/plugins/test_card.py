# SPDX-License-Identifier: Apache-2.0
"""The model card of a fine-tuned classifier names what it was measured on, and what was measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from beitv2_cls.config import FinetuneConfig
from beitv2_core.assembly.cards import write_run_card
from beitv2_core.cards import head_of
from beitv2_core.config import load_config

CONFIG = Path(__file__).resolve().parents[3] / "configs/cls/digit_scenes.yml"


def card(folder: Path, final: dict, *changes: str) -> tuple[dict, str]:
    """Head and text of the card of a run with these values at its end."""
    settings = load_config(CONFIG, ["pretrained.weights=null", *changes], FinetuneConfig).resolved()
    (folder / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    text = write_run_card(folder, {"steps": 10, "final": final}).read_text(encoding="utf-8")
    return head_of(text), text


@pytest.mark.parametrize(("changes", "name"), [
    ((), "digit_scenes"),
    (("data.dataset=folder", "data.root=/home/somebody/train", "data.size=null",
      "validation.root=/home/somebody/test"), "test")])
def test_accuracy_is_a_result_on_the_validation_images(tmp_path, changes, name):
    head, text = card(tmp_path, {"val_acc1": np.float32(0.75), "val_acc5": 1, "val_loss": 0.5}, *changes)
    [measured] = head["model-index"][0]["results"]
    assert measured["dataset"]["name"] == name and head["metrics"] == ["accuracy"]
    assert [(one["name"], one["value"]) for one in measured["metrics"]] == [("top-1 accuracy", 0.75),
                                                                            ("top-5 accuracy", 1.0)]
    assert "| top-1 accuracy | 0.75 | " in text and "somebody" not in text


def test_what_is_no_number_is_no_result(tmp_path):
    head, text = card(tmp_path, {"val_acc1": math.nan})
    assert "model-index" not in head and "Nothing was measured." in text
