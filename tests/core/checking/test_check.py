# SPDX-License-Identifier: Apache-2.0
"""`beitv2 check` finds every planted fault and nothing else, in every form that images come in."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest
import yaml
from check_data import APART, check, kinds, picture, write_classes
from PIL import Image
from typer.testing import CliRunner

from beitv2_core.cli import app
from beitv2_core.data.sources.folder import ImageFolder
from beitv2_core.data.sources.shard_writer import write_shards


@pytest.fixture
def data(tmp_path):
    return write_classes(tmp_path / "data")


def test_clean_data_are_ready(data):
    found = check(data, status=0)
    assert found["ready"] and found["findings"] == [] and all(one["ready"] for one in found["commands"])
    train = found["splits"]["train"]
    assert (train["images"], train["unreadable"], train["turned"], train["one_colour"]) == (20, 0, 0, 0)
    assert train["width"] == {"min": 48, "median": 48, "max": 48} and train["modes"] == {"RGB": 20}
    assert train["formats"] == {"PNG": 20} and not any(train["copies"].values())
    assert train["classes"] == [{"name": name, "images": 10, "share": 0.5} for name in ("cat", "dog")]
    assert found["splits"]["test"]["images"] == 6


def broken(data):
    (data / "train" / "cat" / "0.png").write_bytes((data / "train" / "cat" / "0.png").read_bytes()[:200])


def missing_bytes(data):
    (data / "test" / "cat" / "0.png").write_bytes(b"")


def one_colour(data):
    Image.new("RGB", (48, 36), (9, 9, 9)).save(data / "train" / "dog" / "0.png")


def turned(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(7000).save(data / "train" / "dog" / "t.jpg", exif=exif, quality=95)


def copied(data):
    picture(0).save(data / "train" / "cat" / "copy.png")


def other_class(data):
    picture(0).save(data / "train" / "dog" / "copy.png")


def leak_of_file(data):
    picture(0).save(data / "test" / "cat" / "0.png")


def leak_of_pixels(data):
    picture(0).save(data / "test" / "cat" / "0.bmp")


def leak_compressed(data):
    picture(0).resize((96, 72), Image.Resampling.BICUBIC).save(data / "test" / "cat" / "0.jpg", quality=75)


def unseen_class(data):
    (data / "test" / "fox").mkdir()
    picture(9000).save(data / "test" / "fox" / "0.png")


def untested_class(data):
    for file in (data / "test" / "dog").iterdir():
        os.rename(file, data / "test" / "cat" / f"dog_{file.name}")


def empty_class(data):
    (data / "train" / "fox").mkdir()


def few(data):
    for number in range(6):
        (data / "train" / "cat" / f"{number}.png").unlink()


def not_read(data):
    (data / "train" / "cat" / "a.svg").write_text("<svg/>")


def pipe(data):
    os.mkfifo(data / "train" / "cat" / "z.png")


@pytest.mark.parametrize("plant, wanted", [
    (broken, {"unreadable": (True, 1)}), (missing_bytes, {"unreadable": (True, 1)}), (pipe, {"unreadable": (True, 1)}),
    (one_colour, {"one-colour": (False, 1)}), (turned, {"turned": (True, 1)}), (copied, {"duplicate": (False, 1)}),
    (other_class, {"contradiction": (True, 1)}), (leak_of_file, {"leak": (True, 1)}),
    (leak_of_pixels, {"leak": (True, 1)}), (leak_compressed, {"leak": (True, 1)}),
    (unseen_class, {"unseen-class": (True, 1)}), (untested_class, {"untested-class": (False, 1)}),
    (empty_class, {"empty-class": (True, 1), "untested-class": (False, 1)}), (few, {"few-images": (False, 1)}),
    (not_read, {"left-out": (False, 1)}),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found_and_nothing_else(data, plant, wanted):
    plant(data)
    found = check(data, status=int(any(fault for fault, _ in wanted.values())))
    assert kinds(found) == wanted
    assert all(one["what"] and one["do"] for one in found["findings"])


def test_a_turn_is_no_fault_where_the_settings_apply_it(data):
    turned(data)
    found = check(data, "--set", "data.exif_orientation=true", status=0)
    assert found["splits"]["train"]["turned"] == 1 and found["splits"]["train"]["height"]["max"] == 48


def test_the_written_list_is_ready(data, tmp_path):
    for plant in (broken, copied, leak_of_pixels, other_class):
        plant(data)
    out = tmp_path / "out"
    found = check(data, "-o", out, status=1)
    assert {"unreadable", "leak"} <= set(kinds(found))
    assert Image.open(out / "check.png").width > 1000 and (out / "check.json").is_file()
    rows = list(csv.DictReader(io.StringIO((out / "findings.csv").read_text())))
    assert {row["kind"] for row in rows} == set(kinds(found)) and all(row["file"] and row["detail"] for row in rows)
    again = check(out / "train.txt", "--test", data / "test", status=0)
    assert set(kinds(again)) <= {"few-images"} and again["splits"]["train"]["images"] == 19


def test_lists_tar_files_and_flat_folders_are_read(data, tmp_path):
    lines = [f"train/{name}/{i}.png\t{name}" for name in ("cat", "dog") for i in range(10)]
    (data / "train.txt").write_text("".join(f"{line}\n" for line in lines))
    listed = check(data / "train.txt", status=0)
    assert listed["splits"]["train"]["classes"][0] == {"name": "cat", "images": 10, "share": 0.5}
    list(write_shards(ImageFolder(data / "train", with_classes=True), tmp_path / "tar", per_shard=8))
    tar = check(tmp_path / "tar", "--test", data / "test", status=0)
    assert tar["splits"]["train"]["images"] == 20 and len(tar["splits"]["train"]["classes"]) == 2
    flat = check(data / "train" / "cat", status=0)
    assert flat["splits"]["train"]["classes"] is None and [one["command"].split()[1] for one in flat["commands"]] == [
        "pretrain"]


def test_quick_reads_headers_only_and_says_so(data):
    copied(data)
    found = check(data, "--quick", status=0)
    train = found["splits"]["train"]
    assert found["quick"] and train["copies"] is None and train["width"]["max"] == 48
    shown = CliRunner(**APART).invoke(app, ["check", str(data), "--quick", "--num-workers", "0"])
    assert "headers only" in shown.stdout and shown.stdout.rstrip().endswith("ready")


def tokenizer(root, path, **changes):
    tree = {
        "kind": "tokenizer", "output": "runs/x",
        "data": {"dataset": "folder", "root": str(root), "image_size": 32, **changes.pop("data", {})},
        "encoder": {"size": "tiny", "patch_size": 8}, "decoder": {"size": "tiny", "depth": 1},
        "teacher": {"name": "hog"}, "optim": {"lr": 1e-3, "epochs": 3}, "train": {"batch_size": 4, **changes}}
    path.write_text(yaml.safe_dump(tree))
    return path


def test_settings_are_checked_with_their_keys(data, tmp_path):
    path = tokenizer(data / "train", tmp_path / "t.yml", data={"held_out": 4})
    found = check(path, status=0)
    assert {name: split["images"] for name, split in found["splits"].items()} == {"train": 16, "held_out": 4}
    command = found["commands"][0]
    assert (command["batch"], command["steps_per_epoch"], command["steps"]) == (4, 4, 12)
    assert kinds(check(path, "train.batch_size=32", status=1)) == {"batch": (True, 16)}
    small = check(path, "--set", "data.image_size=64", status=0)["findings"]
    assert [(one["kind"], one["split"], one["count"]) for one in small] == [("small", "train", 16),
                                                                           ("small", "held_out", 4)]


def test_both_stages_read_the_same_images_once(data, tmp_path):
    path = tokenizer(data / "train", tmp_path / "t.yml")
    first = yaml.safe_load(path.read_text())
    del first["output"]
    first["data"]["held_out"] = 2
    second = {**{key: first[key] for key in ("data", "optim")}, "train": {"batch_size": 8}, "tokenizer": {},
              "model": {"size": "tiny", "patch_size": 8}, "mask": {"kind": "random", "num_masked": 4}}
    path.write_text(yaml.safe_dump({"kind": "two_stages", "output": "runs/x", "tokenizer": first, "pretrain": second}))
    found = check(path, status=0)
    assert list(found["splits"]) == ["train", "held_out"]
    assert [one["steps_per_epoch"] for one in found["commands"]] == [4, 2]
    other = check(path, f"pretrain.data.root={data / 'test'}", status=1)
    assert {name: split["images"] for name, split in other["splits"].items()} == {
        "train": 18, "held_out": 2, "train_pretrain": 4, "held_out_pretrain": 2}
    assert kinds(other) == {"batch": (True, 4)}


def test_drawn_images_are_counted_only(tmp_path):
    path = tokenizer("", tmp_path / "t.yml")
    tree = yaml.safe_load(path.read_text())
    tree["data"] = {"dataset": "digit_scenes", "size": 40, "image_size": 32}
    path.write_text(yaml.safe_dump(tree))
    found = check(path, "-o", tmp_path / "out", status=0)
    assert found["splits"]["train"]["drawn"] and found["splits"]["train"]["images"] == 40
    assert found["commands"][0]["steps_per_epoch"] == 10 and (tmp_path / "out" / "check.png").is_file()


def test_wrong_questions_are_errors(data, tmp_path):
    for arguments, words in ((["nowhere"], "does not exist"),
                             ([str(tokenizer(data, tmp_path / "t.yml")), "--test", "x"], "--test: ")):
        done = CliRunner(**APART).invoke(app, ["check", *arguments])
        assert done.exit_code == 2 and words in done.stderr


def test_worker_processes_find_the_same(data):
    leak_compressed(data)
    done = CliRunner(**APART).invoke(app, ["check", str(data), "--json", "--num-workers", "2"])
    assert json.loads(done.stdout) == check(data)
