# SPDX-License-Identifier: Apache-2.0
"""Images held out of training: by their names alone, written down in the run, repeated from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import forms
import numpy as np
import pytest
from own_data import as_png, config_file, scene, settings
from seg_runs import segment

from beitv2_core.errors import ConfigError, DataError
from beitv2_seg.data.forms import samples_of

LISTLESS = {"train_dataset__train_path": None, "val_dataset__val_path": None}


def write(root, count=10, first=0):
    """Images and masks without parts."""
    for number in range(first, first + count):
        image, label = scene()
        forms.save_pair(root / "images" / f"p{number}.png", image, root / "masks" / f"p{number}.png", label)


def parts(root, folder, run=None, **changes):
    config = settings(root, folder, **{**LISTLESS, "held_out": 0.3, **changes})
    return tuple([Path(image).name for image, _ in samples_of(config, where, run).files]
                 for where in ("train_dataset", "val_dataset"))


@pytest.mark.parametrize(("held_out", "count"), [(0.3, 3), (2, 2), (0.01, 1)])
def test_a_share_or_a_count_is_held_out_and_no_image_is_in_both(tmp_path, held_out, count):
    write(tmp_path / "data")
    train, val = parts(tmp_path / "data", tmp_path, held_out=held_out)
    assert len(val) == count and sorted([*train, *val]) == sorted(f"p{i}.png" for i in range(10))


def test_the_names_alone_decide_wherever_the_folder_lies(tmp_path):
    write(tmp_path / "data")
    before = parts(tmp_path / "data", tmp_path)
    shutil.move(tmp_path / "data", tmp_path / "other" / "place")
    assert parts(tmp_path / "other" / "place", tmp_path) == before


def test_lists_are_held_out_of_too(tmp_path):
    write(tmp_path / "data")
    (tmp_path / "data" / "train.txt").write_text("".join(f"images/p{i}.png masks/p{i}.png\n" for i in range(10)))
    listed = parts(tmp_path / "data", tmp_path, train_dataset__train_path=str(tmp_path / "data" / "train.txt"))
    assert listed == parts(tmp_path / "data", tmp_path)


def test_all_images_and_other_files_of_validation_are_refused(tmp_path):
    write(tmp_path / "data", 3)
    with pytest.raises(DataError, match="held_out: 3 of 3 .*at most 2"):
        parts(tmp_path / "data", tmp_path, held_out=3)
    with pytest.raises(ConfigError, match="val_dataset.dataset_root: 'elsewhere', but held_out takes"):
        parts(tmp_path / "data", tmp_path, val_dataset__dataset_root="elsewhere")


def test_a_run_writes_its_lists_and_repeats_them_on_resume_and_in_evaluation(tmp_path, command_log):
    data, run = tmp_path / "data", tmp_path / "run"
    write(data)
    config = config_file(data, tmp_path, **LISTLESS, held_out=0.3, classes={"ground": 0, "red": 1, "green": 2})
    train = ("train", "--config", config, "--device", "cpu", "--save_dir", run, "--save_interval", 1, "--do_eval")
    segment(*train, "--dry-run")
    assert not run.exists()
    segment(*train)
    lists = {part: (run / "split" / f"{part}.txt").read_text() for part in ("train", "val")}
    assert lists["val"].count("\n") == 3 and "\tmasks/p" in lists["val"]
    listed = settings(data, tmp_path / "lists", train_dataset__train_path=str(run / "split" / "train.txt"),
                      val_dataset__val_path=str(run / "split" / "val.txt"))
    again = [Path(image).name for image, _ in samples_of(listed, "val_dataset").files]
    assert again == parts(data, tmp_path / "drawn")[1]
    segment("evaluate", "--model_path", run)
    before = np.load(run / "confusion.npy")
    write(data, 7, first=10)  # a new draw would take others
    assert parts(data, tmp_path / "drawn")[1] != parts(data, tmp_path / "drawn", run)[1]
    with command_log.at_level("WARNING", "beitv2_seg"):
        segment(*train, "--resume_model", "auto", "--iters", 3)
        segment("evaluate", "--model_path", run)
    assert any("7 images are in neither list" in record.getMessage() for record in command_log.records)
    np.testing.assert_array_equal(np.load(run / "confusion.npy"), before)
    assert {part: (run / "split" / f"{part}.txt").read_text() for part in lists} == lists
    assert json.loads((run / "summary.json").read_text())["steps"] == 3
    (data / "images" / "p0.png").unlink()
    (data / "masks" / "p0.png").unlink()
    assert "p0.png" in segment(*train, "--resume_model", "auto", code=2)


def test_a_run_may_not_change_what_labels_become(tmp_path):
    forms.write_folders(tmp_path / "data")
    config = config_file(tmp_path / "data", tmp_path, **LISTLESS, classes={"a": 0, "b": 1, "c": 2})
    segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--iters", 1, "--opts",
            "lr_scheduler.warmup=0")
    config = config_file(tmp_path / "data", tmp_path, **LISTLESS, classes={"a": 1, "b": 0, "c": 2})
    output = segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--iters", 1,
                     "--resume_model", "auto", "--opts", "lr_scheduler.warmup=0", code=2)
    assert "label_map.0: 0 -> 1" in output


def test_a_mask_of_0_and_255_in_a_folder_is_a_table_of_two_classes(tmp_path):
    image, label = scene()
    forms.save_pair(tmp_path / "data" / "images" / "a.jpg", image, tmp_path / "data" / "masks" / "a.png",
                    (255 * (label > 0)).astype(np.uint8))
    config = settings(tmp_path / "data", tmp_path, **LISTLESS, model__num_classes=2,
                      classes={"background": 0, "object": 255})
    np.testing.assert_array_equal(samples_of(config, "train_dataset").label(0), label > 0)
    as_png(np.full(label.shape, 128, np.uint8), tmp_path / "data" / "masks" / "a.png")
    with pytest.raises(DataError, match="labels 128"):
        samples_of(config, "train_dataset").label(0)
