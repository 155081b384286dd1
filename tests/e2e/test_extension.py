# SPDX-License-Identifier: Apache-2.0
"""The package of docs/extension.md, as it stands on the page, is trained, planned, converted, exported and served."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from beitv2_core.assembly.data import build_masking
from beitv2_core.assembly.from_architecture import shapes_of
from beitv2_core.assembly.kinds import find_kind
from beitv2_core.assembly.loaded_weights import Hints, read_model
from beitv2_core.assembly.restore import read_config
from beitv2_core.cli import app
from beitv2_core.commands.serve import build_views
from beitv2_core.conversion.convert import convert_file
from beitv2_core.data.rng import SampleRng
from beitv2_core.errors import CheckpointError
from beitv2_core.exported_model import load_exported

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/extension.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
SHORT = ["data.size=32", "optim.steps=8", "optim.warmup_steps=2", "train.batch_size=8", "train.save_every=8"]


def install(folder: Path) -> None:
    """The package of the page, as pip would leave it."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    info = folder / "checkers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: checkers\nVersion: 1.0\n", encoding="utf-8")
    groups = re.findall(r'^\[project\.entry-points\."(.*?)"\]\n((?:\w+ = ".*"\n)+)', FILES["pyproject.toml"],
                        re.MULTILINE)
    lines = "".join(f"[{group}]\n" + entries.replace('"', "") for group, entries in groups)
    (info / "entry_points.txt").write_text(lines, encoding="utf-8")


@pytest.fixture(scope="module")
def checkers(tmp_path_factory):
    """The folder the package and its runs lie in."""
    folder = tmp_path_factory.mktemp("checkers")
    install(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "checkers"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def segmentation(checkers):
    """A run of the page's head."""
    run = checkers / "linear"
    beitv2("segment", "train", "--config", checkers / "linear.yml", "--device", "cpu", "--save_dir", run)
    return run


def beitv2(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_the_page_holds_the_whole_package_and_the_commands_that_are_tried_here():
    assert set(FILES) == {"pyproject.toml", "checkers/teacher.py", "checkers/mask.py", "checkers/head.py",
                          "checkers/kind.py", "linear.yml"}
    shown = re.findall(r"^beitv2 (segment train|[a-z-]+)", PAGE, re.MULTILINE)
    assert shown == ["train-tokenizer", "pretrain", "plan", "segment train", "convert", "verify", "export", "serve"]


def test_its_teacher_and_its_mask_are_trained_with(checkers):
    tokenizer, settings = checkers / "tokenizer", ROOT / "configs/tokenizer/digit_scenes.yml"
    own = [f"output={tokenizer}", "teacher.name=colours", "health.unquantized_steps=2", "health.kmeans_batches=2"]
    assert "teacher colours" not in beitv2("plan", settings, "--set", *own), "it has no parameters"
    beitv2("train-tokenizer", settings, "--set", *SHORT, *own)
    beitv2("pretrain", ROOT / "configs/pretrain/digit_scenes.yml", "--set", *SHORT, f"output={checkers / 'pretrain'}",
           f"tokenizer.weights={tokenizer}", "mask.kind=checkers")
    config = read_config(str(checkers / "pretrain"))
    mask = build_masking(config.mask, config.grid)(SampleRng.from_seed(0))
    assert type(mask).__module__ == "numpy" and mask.sum() == config.mask.num_masked


def test_its_head_is_planned_as_it_is_built(segmentation):
    shown = beitv2("plan", segmentation.parent / "linear.yml", "--images", 100)
    found = read_model(segmentation)
    shapes = shapes_of(find_kind("linear_segmentation"), found.architecture)
    trained = sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith(("_mean", "_variance")))
    assert f"{trained:,} trained" in shown


def test_its_head_is_converted_there_and_back_and_verified(segmentation, tmp_path):
    ours, official = tmp_path / "linear.safetensors", tmp_path / "linear.pth"
    assert "linear_segmentation" in beitv2("convert", segmentation, ours)
    beitv2("verify", ours, "--against", segmentation)
    beitv2("convert", ours, official, "--to", "official")
    beitv2("convert", official, tmp_path / "again.safetensors", "--set", "out_indices=0,1,2,2",
           "--set", "num_heads=3")
    found, again = (read_model(path) for path in (ours, tmp_path / "again.safetensors"))
    assert found.architecture["out_indices"] == again.architecture["out_indices"] == [0, 1, 2, 2]
    assert all((found.weights[name] == again.weights[name]).all() for name in found.weights)
    with pytest.raises(CheckpointError, match="out_indices of this linear_segmentation model .*--set out_indices="):
        convert_file(official, tmp_path / "x.safetensors", hints=Hints(values={"num_heads": 3}))


def test_its_head_is_exported_and_served_with_the_same_answers(segmentation):
    beitv2("export", segmentation, "--format", "paddle", "--output", segmentation.parent / "linear.paddle")
    assert load_exported(segmentation.parent / "linear.paddle").description.kind == "segmenter"
    (view,) = build_views(str(segmentation), None, None, None, 0)
    shown = view.show(Image.new("RGB", (64, 64), "grey"))
    assert shown.kind == "label_map" and sum(one.share for one in shown.classes) == pytest.approx(1)


def test_without_the_package_its_file_names_it(segmentation, tmp_path, monkeypatch):
    ours = tmp_path / "linear.safetensors"
    beitv2("convert", segmentation, ours)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(segmentation.parent)])
    with pytest.raises(CheckpointError, match="no installed package knows a model of kind 'linear_segmentation'; "
                                              "known: tokenizer, .*written with the package checkers"):
        read_model(ours)
