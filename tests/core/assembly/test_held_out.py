# SPDX-License-Identifier: Apache-2.0
"""Images to measure on are never those a run was trained on, and a folder has no split to be asked for."""

from __future__ import annotations

import pytest
from PIL import Image

from beitv2_core.assembly import build_dataset
from beitv2_core.assembly.held_out import allow_pixels, held_out, named_images, refuse_trained_on
from beitv2_core.config.sections import DataConfig
from beitv2_core.data import Reading
from beitv2_core.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path):
    for name in ("train/a/0.png", "train/b/1.png", "val/a/2.png", "val/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    return tmp_path


def folder(path, **options):
    return DataConfig(dataset="folder", root=str(path), image_size=32, **options)


@pytest.mark.parametrize("options", [{"split": "test"}, {"size": 3}])
def test_a_folder_is_not_asked_for_a_split_or_a_size(root, options):
    with pytest.raises(ConfigError, match="read whole"):
        build_dataset(folder(root / "train"), **options)


def test_the_images_a_run_was_trained_on_are_refused_however_they_are_named(root, monkeypatch):
    (root / "link").symlink_to(root / "train", target_is_directory=True)
    monkeypatch.chdir(root)
    for named in ("train", "train/a", ".", "link", str(root / "train")):
        with pytest.raises(ConfigError, match="--test.*was trained on"):
            refuse_trained_on(named, folder(root / "train"), "--test")
    for named in ("val", "val/a"):
        refuse_trained_on(named, folder(root / "train"), "--test")
    refuse_trained_on("train", folder(root / "gone"), "--test")


def test_links_to_training_images_are_the_same_files(root):
    for name in ("folders", "files", "other", "train_of_links"):
        (root / name / "a").mkdir(parents=True)
    (root / "folders/a").rmdir()
    (root / "folders/a").symlink_to(root / "train/a", target_is_directory=True)
    (root / "files/a/x.png").symlink_to(root / "train/a/0.png")
    (root / "other/a/x.png").symlink_to(root / "val/a/2.png")
    (root / "train_of_links/a/y.png").symlink_to(root / "val/b/3.png")
    for named in ("folders", "files"):
        with pytest.raises(ConfigError, match="--test.*was trained on .*train/a/0.png"):
            refuse_trained_on(str(root / named), folder(root / "train"), "--test")
    with pytest.raises(ConfigError, match="val/b/3.png"):
        refuse_trained_on(str(root / "val"), folder(root / "train_of_links"), "--test")
    refuse_trained_on(str(root / "other"), folder(root / "train"), "--test")


def test_a_list_was_trained_on_where_its_files_are(root):
    (root / "train.txt").write_text("train/a/0.png\ntrain/b/1.png\n")
    trained_on = folder(root, list_file=str(root / "train.txt"))
    refuse_trained_on(str(root / "val"), trained_on, "--data")
    for named in (root, root / "train"):
        with pytest.raises(ConfigError, match="train.txt"):
            refuse_trained_on(str(named), trained_on, "--data")


def test_test_images_are_asked_for_or_drawn(root):
    ask = dict(run="RUN", image_size=32, size=7, reading=Reading())
    with pytest.raises(ConfigError, match="RUN: was trained on .*train.*--data FOLDER"):
        held_out(None, [folder(root / "train")], **ask)
    with pytest.raises(ConfigError, match="RUN: no settings"):
        held_out(None, [None], **ask)
    drawn = DataConfig(dataset="digit_scenes", size=50, image_size=32)
    assert held_out(None, [drawn], **ask).split == "test" and len(held_out(None, [drawn], **ask)) == 7


def test_class_folders_have_labels_numbered_by_the_given_classes(root):
    ask = dict(run="RUN", image_size=32, size=7, reading=Reading(), labelled=True)
    found = held_out(str(root / "val"), [folder(root / "train")], **ask)
    assert found.classes == ["a", "b"]
    assert held_out(str(root / "val"), [], **ask, classes=["b", "x", "a"]).labels.tolist() == [2, 0]
    with pytest.raises(DataError, match="--data"):
        held_out(str(root / "val"), [], **ask, classes=["a"])


def test_another_limit_of_pixels_reaches_the_reader(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # receives corrupt_files.txt
    found = build_dataset(named_images(str(root / "val"), 32, Reading(upright=True, max_pixels=100)))
    assert found.reading == Reading(True, 100)
    with pytest.raises(DataError, match="data.max_pixels"):
        found.load(0)
    allow_pixels([found, object()], None)
    assert found.reading.max_pixels == 100
    found.corrupt.max_share = 1.0
    allow_pixels([found, object()], 1200)
    assert found.load(0).image.size == (40, 30)
