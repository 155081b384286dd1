# SPDX-License-Identifier: Apache-2.0
"""`beitv2 check` of segmentation data: every planted fault of the labels is found and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from check_data import check, kinds, picture
from own_data import config_file
from PIL import Image

COUNT = 10


def labels(seed: int) -> np.ndarray:
    found = np.zeros((36, 48), np.uint8)
    found[4:14, 4 + seed : 14 + seed], found[20:30, 20:30], found[:2] = 1, 2, 255
    return found


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for part, count, start in (("train", COUNT, 0), ("val", 3, 500)):
        for folder in ("images", "masks"):
            (root / folder / part).mkdir(parents=True)
        for i in range(count):
            picture(start + i).save(root / "images" / part / f"{i}.png")
            Image.fromarray(labels(i)).save(root / "masks" / part / f"{i}.png")
    return root


def save(data, label, name="masks/train/0.png"):
    Image.fromarray(label).save(data / name)


def settings(data, folder, **changes):
    """Settings of that folder, read by its form."""
    return config_file(data, folder, train_dataset__train_path=None, val_dataset__val_path=None, **changes)


def outside(data):
    label = labels(0)
    label[5, 5] = 7
    save(data, label)


def other_size(data):
    save(data, labels(0)[:-1])


def coloured(data):
    save(data, np.random.RandomState(0).randint(0, 255, (36, 48, 3)).astype(np.uint8))


def cut(data):
    path = data / "masks/train/0.png"
    path.write_bytes(path.read_bytes()[:60])


def broken(data):
    (data / "images/train/0.png").write_bytes(b"no image")


def leak(data):
    picture(3).save(data / "images/val/0.png")


def turned(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    (data / "images/train/0.png").unlink()
    picture(0).save(data / "images/train/0.jpg", exif=exif, quality=95)


@pytest.mark.parametrize("plant, wanted", [
    (None, {}), (outside, {"label-outside": (True, 1)}), (other_size, {"size-mismatch": (True, 1)}),
    (coloured, {"label-unreadable": (True, 1)}), (cut, {"label-unreadable": (True, 1)}),
    (broken, {"unreadable": (True, 1)}), (leak, {"leak": (True, 1)}), (turned, {"size-mismatch": (True, 1)}),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found_and_nothing_else(data, tmp_path, plant, wanted):
    if plant is not None:
        plant(data)
    found = check(settings(data, tmp_path / "run"), status=int(bool(wanted)))
    few = {"few-images": (False, 3)} if plant in (coloured, cut) else {}  # one of ten label maps is not counted
    assert kinds(found) == {**wanted, **few}
    (command,) = found["commands"]
    assert command["reads"] == {"train": COUNT, "val": 3} and (command["classes"], command["batch"]) == (3, 2)
    assert command["steps_per_epoch"] == 5 and command["steps"] == 3


def test_shares_of_pixels_are_counted(data, tmp_path):
    train = check(settings(data, tmp_path / "run"))["splits"]["train"]
    assert [(one["name"], one["images"], one["pixels"]) for one in train["classes"]] == [
        ("0", COUNT, COUNT * (34 * 48 - 200)), ("1", COUNT, COUNT * 100), ("2", COUNT, COUNT * 100)]
    assert train["pixels_without_class"] == COUNT * 96


def test_a_folder_is_recognised_and_its_classes_counted(data):
    found = check(data, status=0)
    assert [len(split["classes"]) for split in found["splits"].values()] == [3, 3]
    assert [one["command"].split()[1] for one in found["commands"]] == ["segment", "pretrain"]
    assert found["commands"][0]["classes"] == 3


def test_masks_of_0_and_255_are_told_with_the_setting(data):
    for i in range(COUNT):
        save(data, (labels(i) == 1).astype(np.uint8) * 255, f"masks/train/{i}.png")
    first = check(data, status=1)["findings"][0]
    assert first["kind"] == "one-class" and "label_map: {255: 1}" in first["do"]


def test_the_written_list_is_read_by_the_settings(data, tmp_path):
    other_size(data)
    out = tmp_path / "out"
    (finding,) = check(settings(data, tmp_path / "run"), "-o", out, status=1)["findings"]
    assert finding["kind"] == "size-mismatch"
    again = check(settings(data, tmp_path / "run"), "--set", "train_dataset.form=list",
                  f"train_dataset.train_path={out / 'train.txt'}", status=0)
    assert again["splits"]["train"]["images"] == COUNT - 1
