# SPDX-License-Identifier: Apache-2.0
"""The model card of a segmentor names what it was trained and measured on, and what was measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml
from seg_runs import DIGITS

from beitv2_core.assembly.cards import write_run_card
from beitv2_core.cards import head_of
from beitv2_seg.assembly import build_segmentation
from beitv2_seg.config import read_config_file


@pytest.mark.parametrize(("config", "changes", "name", "trained"), [
    ("digit_scenes", [], "digit_scenes", "images of `digit_scenes`, drawn by the code"),
    ("own_data", ["train_dataset.dataset_root=/home/somebody/streets", "val_dataset.dataset_root=/home/somebody/towns"],
     "towns", "images of `streets`")])
def test_miou_is_a_result_on_the_validation_images(tmp_path, config, changes, name, trained):
    settings = read_config_file(config, opts=["model.backbone.pretrained=null", *changes], flags={}).resolved()
    (tmp_path / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    final = {"miou": 0.5, "macc": 0.625, "aacc": 0.75}
    text = write_run_card(tmp_path, {"steps": 10, "images": 320, "final": final}).read_text(encoding="utf-8")
    head = head_of(text)
    [measured] = head["model-index"][0]["results"]
    assert measured["dataset"]["name"] == name and head["pipeline_tag"] == "image-segmentation"
    assert [(one["type"], one["value"]) for one in measured["metrics"]] == [
        ("mean_iou", 0.5), ("mean_accuracy", 0.625), ("overall_accuracy", 0.75)]
    assert trained in text and ": 320 images." in text and "somebody" not in text


def test_an_image_that_an_epoch_repeats_is_counted_once(tmp_path):
    settings = read_config_file("digit_scenes", opts=[*DIGITS, "run.repeats=3"],
                                flags={"output": str(tmp_path), "iters": 4})
    summary = {}
    build_segmentation(settings).on_finish[-1](SimpleNamespace(path=tmp_path), summary)
    assert summary["images"] == 24
