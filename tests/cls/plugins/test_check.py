# SPDX-License-Identifier: Apache-2.0
"""`beitv2 check` of a classifier's settings: what `finetune` and `linear-probe` would read, and refuse."""

from __future__ import annotations

import pytest
import yaml
from check_data import check, kinds, picture, write_classes


@pytest.fixture
def data(tmp_path):
    return write_classes(tmp_path / "data")


def settings(data, path, kind="finetune", **changes):
    tree = {"kind": kind, "output": "runs/x", "pretrained": {"weights": None},
            "data": {"dataset": "folder", "root": str(data / "train"), "image_size": 32},
            "validation": {"root": str(data / "test")},
            "model": {"width": 12, "depth": 1, "num_heads": 2, "patch_size": 8}, "optim": {"lr": 1e-3, "epochs": 2},
            "train": {"batch_size": 4}, **changes}
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("kind, command", [("finetune", "finetune"), ("linear_probe", "linear-probe")])
def test_clean_settings_are_ready(data, tmp_path, kind, command):
    found = check(settings(data, tmp_path / "a.yml", kind), status=0)
    assert found["findings"] == [] and found["commands"] == [{
        "command": f"beitv2 {command} {tmp_path / 'a.yml'}", "reads": {"train": 20, "validation": 6}, "classes": 2,
        "batch": 4, "steps_per_epoch": 5, "steps": 10, "ready": True}]


def test_settings_that_do_not_fit_are_found(data, tmp_path):
    (data / "test" / "fox").mkdir()
    picture(9000).save(data / "test" / "fox" / "0.png")
    found = check(settings(data, tmp_path / "a.yml"), "model.num_classes=3", status=1)
    assert kinds(found) == {"num-classes": (True, 2), "unseen-class": (True, 1)}
    found = check(settings(data, tmp_path / "a.yml", validation={}), status=0)
    assert kinds(found) == {"no-validation": (False, 0)}


def test_pretraining_does_not_wait_for_classes(data):
    (data / "train" / "fox").mkdir()
    ready = {one["command"].split()[1]: one["ready"] for one in check(data, status=1)["commands"]}
    assert ready == {"pretrain": True, "finetune": False, "linear-probe": False}
