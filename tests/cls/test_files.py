# SPDX-License-Identifier: Apache-2.0
"""A classifier's file of weights, released or converted, is taken wherever its run is, and gives the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cls_runs import COLOURS, CONFIG, paint, run
from PIL import Image
from safetensors.numpy import load_file, save_file

from beitv2_cls.plugins.view import classifier_view
from beitv2_core.commands.serve import build_views


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Images, a run that tells them apart, and its weights in two formats."""
    folder = tmp_path_factory.mktemp("made")
    for part, count in (("train", 6), ("val", 2)):
        paint(folder / part, count)
    run("finetune", CONFIG, "--set", "data.dataset=folder", f"data.root={folder}/train", "data.size=null",
        "data.image_size=32", f"validation.root={folder}/val", "validation.crop_share=0.875", "pretrained.weights=null",
        "model.width=24", "model.depth=2", "model.num_heads=2", "train.batch_size=6", "optim.steps=12",
        "optim.warmup_steps=2", "optim.lr=3.0e-3", f"output={folder}/run")
    run("convert", folder / "run", folder / "official.pth", "--to", "official")
    run("convert", folder / "run", folder / "ours.safetensors")
    return folder


FILES = ["official.pth", "ours.safetensors"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_measured_like_its_run(made, tmp_path, file):
    """The official format holds no names: its classes are the folders in sorted order, as ImageNet's are."""
    for source, name in ((made / "run", "run"), (made / file, "file")):
        run("evaluate", source, "--data", made / "val", "-o", tmp_path / name)
    assert (tmp_path / "run/evaluation.json").read_text() == (tmp_path / "file/evaluation.json").read_text()
    assert json.loads((tmp_path / "file/evaluation.json").read_text())["top1"] == 1.0


def test_a_file_without_names_refuses_names_and_other_numbers_of_folders(made, tmp_path):
    (tmp_path / "list.txt").write_text("dog/0.png 1\nfox/0.png 2\n")
    assert "top-1 100.00 %" in run("evaluate", made / "official.pth", "--data", made / "val", "--list-file",
                                   tmp_path / "list.txt", "-o", tmp_path)
    (tmp_path / "list.txt").write_text("dog/0.png dog\n")
    assert "dog" in run("evaluate", made / "official.pth", "--data", made / "val", "--list-file", tmp_path / "list.txt",
                        "-o", tmp_path, code=2)
    (tmp_path / "two/dog").mkdir(parents=True)
    Image.new("RGB", (32, 32), COLOURS["dog"]).save(tmp_path / "two/dog/0.png")
    assert "dog" in run("evaluate", made / "official.pth", "--data", tmp_path / "two", "-o", tmp_path, code=2)
    said = run("evaluate", made / "official.pth", "-o", tmp_path, code=2)
    assert "official.pth" in said and "--data" in said


@pytest.mark.parametrize("file, names", [("official.pth", ["0", "1", "2"]), ("ours.safetensors", [*COLOURS])])
def test_a_file_predicts_is_served_and_exported_like_its_run(made, tmp_path, file, names, caplog):
    shares = []
    for source in (made / "run", made / file):
        shown = run("predict", source, made / "val/fox/1.png", "--json")
        shares.append([entry["probability"] for entry in json.loads(shown.splitlines()[-1])["classes"]])
    assert shares[0] == shares[1]
    views = build_views(str(made / file), None, None, None, 0)
    assert [view.name for view in views] == ["classes"]
    image = Image.open(made / "val/fox/1.png").convert("RGB")
    live, served = (view.show(image).classes for view in (classifier_view(str(made / "run")), views[0]))
    assert [one.probability for one in live] == [one.probability for one in served] and served[0].name == names[2]
    run("export", made / file, "-f", "paddle", "-o", tmp_path / "model")
    assert json.loads((tmp_path / "model/model.json").read_text())["classes"] == names


@pytest.mark.parametrize("file", FILES)
def test_the_trunk_of_a_file_is_a_backbone_like_its_runs(made, tmp_path, file):
    shown = [run("knn", source, "--data", made / "train", "--test", made / "val", "-k", "1", "-k", "5")
             for source in (made / "run", made / file)]
    rows = [[line for line in text.splitlines() if line.startswith("k =")] for text in shown]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    again = run("finetune", CONFIG, "--dry-run", "--set", "data.dataset=folder", f"data.root={made}/train",
                "data.size=null", "data.image_size=32", "train.batch_size=6", f"pretrained.weights={made}/{file}",
                "model.width=24", "model.depth=2", "model.num_heads=2", f"output={tmp_path}/run")
    assert "one step: loss" in again


def test_another_kind_of_run_or_file_is_named(made, tmp_path):
    run("convert", made / "run", tmp_path / "trunk.safetensors", "--backbone")
    for command in (["evaluate", "--data", made / "val"], ["predict", made / "val"]):
        said = run(command[0], tmp_path / "trunk.safetensors", *command[1:], code=2)
        assert "trunk.safetensors" in said and "backbone" in said and "classifier" in said
    run("knn", tmp_path / "trunk.safetensors", "--data", made / "train", "--test", made / "val", "-k", "1")
    said = run("evaluate", tmp_path / "nowhere", code=2)
    assert "nowhere" in said and "beitv2 finetune" in said


def test_a_head_outside_the_beginning_of_the_trunks_names_is_named(made, tmp_path):
    state = load_file(made / "ours.safetensors")
    save_file({name if name.startswith("head.") else f"backbone.{name}": array for name, array in state.items()},
              tmp_path / "parted.safetensors")
    said = run("evaluate", tmp_path / "parted.safetensors", "--data", made / "val", code=2)
    assert "backbone model" in said and "head.bias, head.weight" in said and "backbone.head.weight" in said
    save_file({f"backbone.{name}": array for name, array in state.items()}, tmp_path / "whole.safetensors")
    assert "top-1 100.00 %" in run("evaluate", tmp_path / "whole.safetensors", "--data", made / "val", "-o", tmp_path)


@pytest.mark.parametrize("to, dst", [("official", "x.pth"), ("timm", "x.safetensors")])
def test_names_are_not_said_to_be_in_a_format_that_has_none(made, tmp_path, to, dst):
    said = run("convert", made / "run", tmp_path / dst, "--to", to)
    assert "3 class names, for which this format has no place" in said and ", 3 class names" not in said
    said = run("convert", made / "run", tmp_path / f"again_{dst}", "--to", to, "--classes", made / "run/classes.json",
               code=2)
    assert "--classes" in said and to in said and not (tmp_path / f"again_{dst}").exists()
    assert ", 3 class names" in run("convert", made / "run", tmp_path / "ours.safetensors")
