# SPDX-License-Identifier: Apache-2.0
"""Commands on folders of image files: test images are asked for, all read as the run does, names are names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.data.sources.image_file import decode

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["data.dataset=folder", "train.batch_size=8", "train.log_every=2", "train.save_every=2", "optim.warmup_steps=1",
         "health.unquantized_steps=0", "optim.steps=3"]
#: a name whose bytes are GBK and no UTF-8, one of Chinese letters, a plain one
NAMES = (os.fsdecode("猫".encode("gbk")), "狗", "ship")
runner = CliRunner()
pytestmark = pytest.mark.slow


def run(*arguments, code=0):
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def refused(*arguments) -> str:
    return run(*arguments, code=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """train/ and test/ of three classes, each of a colour of its own."""
    root = tmp_path_factory.mktemp("images")
    draws = np.random.RandomState(0)
    for part, count in (("train", 8), ("test", 4)):
        for number, name in enumerate(NAMES):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draws.randint(0, 120, (40, 40, 3)).astype(np.uint8)
                pixels[..., number] += 120
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = f"data.root={images}/train"
    run("train-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "--set", *SMALL, data, f"output={folder}/tokenizer")
    run("pretrain", CONFIGS / "pretrain/digit_scenes.yml", "--set", *[s for s in SMALL if "health" not in s], data,
        f"tokenizer.weights={folder}/tokenizer", f"output={folder}/pretrain")
    return folder


def test_measuring_asks_for_test_images_and_refuses_those_of_the_training(runs, images):
    for command in (["codebook", runs / "tokenizer"], ["report", runs / "tokenizer", runs / "pretrain"]):
        assert "--data FOLDER" in refused(*command)
        for training in (images / "train", images / "train" / "ship", images):
            assert "was trained on" in refused(*command, "--data", training)


def test_a_codebook_is_measured_on_images_of_every_class(runs, images, tmp_path):
    shown = run("codebook", runs / "tokenizer", "--data", images / "test", "--limit", 6, "-o", tmp_path)
    assert json.loads((tmp_path / "codebook.json").read_text())["images"] == 6
    assert "usage: " in shown and " %" in shown.split("usage: ")[1].splitlines()[0]


def test_a_report_on_class_folders_has_a_probe_whatever_their_names(runs, images):
    run("report", runs / "tokenizer", runs / "pretrain", "--data", images / "test", "--images", 12,
        "--train-images", 24)
    summary = json.loads((runs / "pretrain/summary.json").read_text())["report"]
    assert summary["images"] == 12 and summary["linear_probe"]["train_images"] == 24
    assert summary["linear_probe"]["random"] == 1.0  # three colours
    assert all(Path(figure).is_file() for figure in summary["figures"])


def test_a_report_refuses_test_classes_that_the_training_images_do_not_have(runs, images, tmp_path):
    for name in ("ship", "plane"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    said = refused("report", runs / "tokenizer", runs / "pretrain", "--data", tmp_path)
    assert "'plane'" in said and "ship" in said and "--data" in said


def test_lists_are_tokenized_and_a_file_that_is_not_read_is_named(runs, images, tmp_path):
    listed = tmp_path / "some.txt"
    listed.write_bytes(b"\xef\xbb\xbf" + f"test/ship/1.png 0\r\n{images}/test/狗/2.png 1\r\n\r\n".encode())
    (images / "some.txt").write_bytes(listed.read_bytes())
    run("tokenize", images / "some.txt", "-t", runs / "tokenizer", "-o", tmp_path / "codes.npz")
    assert np.load(tmp_path / "codes.npz")["paths"].tolist() == [str(images / "test/ship/1.png"),
                                                                 str(images / "test/狗/2.png")]
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    said = refused("tokenize", tmp_path / "a.heic", "-t", runs / "tokenizer", "-o", tmp_path / "no.npz")
    assert "a.heic" in said and "HEIC" in said and "Convert" in said
    Image.new("1", (300, 200)).save(tmp_path / "big.png")
    say = ["tokenize", tmp_path / "big.png", "-t", runs / "tokenizer", "-o", tmp_path / "big.npz", "--max-pixels"]
    said = refused(*say, 59_999)
    assert all(fact in said for fact in ("300 x 200", "59,999", "data.max_pixels", "--max-pixels")), said
    run(*say, 60_000)


def test_a_folder_that_is_no_folder_of_parts_is_left_alone(runs, images, tmp_path):
    (tmp_path / "codes.npz.parts").mkdir()
    (tmp_path / "codes.npz.parts" / "thesis.tex").write_text("all my work")
    said = refused("tokenize", images / "test", "-t", runs / "tokenizer", "-o", tmp_path / "codes.npz")
    assert "thesis.tex" in said and (tmp_path / "codes.npz.parts" / "thesis.tex").read_text() == "all my work"


def test_names_that_are_no_text_are_sharded_and_read_again(images, tmp_path):
    from beitv2_core.data import ImageFolder, ShardSet

    run("make-shards", images / "train", tmp_path / "shards", "--with-classes", "--per-shard", 20)
    shards, folder = ShardSet(tmp_path / "shards", with_classes=True), ImageFolder(images / "train", with_classes=True)
    assert shards.classes == folder.classes == sorted(NAMES)


def test_a_stopped_run_refuses_other_images_of_the_same_number_unless_asked_for(images, tmp_path):
    settings = [*SMALL, f"output={tmp_path}/run"]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(16):
            Image.new("RGB", (40, 40), (9 * number, 0, 0)).save(tmp_path / folder / f"{folder[0]}{number:02d}.png")
    config = CONFIGS / "tokenizer/digit_scenes.yml"
    run("train-tokenizer", config, "--set", *settings, f"data.root={tmp_path}/one")
    newest = sorted((tmp_path / "run/checkpoints").glob("*.pdckpt"))
    for folder in newest[1:]:  # as if it had been stopped after step 2
        shutil.rmtree(folder)
    said = refused("train-tokenizer", config, "--set", *settings, f"data.root={tmp_path}/two")
    assert "images" in said and "train.other_data" in said
    run("train-tokenizer", config, "--set", *settings, f"data.root={tmp_path}/two", "train.other_data=true")


@pytest.mark.parametrize("upright", [False, True])
def test_tokens_exports_and_the_page_turn_photographs_as_the_run_does(tmp_path, upright):
    from beitv2_core.assembly import load_tokenizer, reading_of_run
    from beitv2_core.commands.serve import build_views
    from beitv2_core.evaluation.codes import encode_files
    from beitv2_core.exported_model import load_exported
    from beitv2_core.serve.image import read_image

    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.RandomState(0).randint(0, 256, (48, 64, 3), dtype=np.uint8)
    photograph = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(photograph, quality=95, exif=exif)
    decode(photograph, upright=upright).save(tmp_path / "as_read.png")
    run("init-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "--set", "data.dataset=folder",
        f"data.root={tmp_path}", f"data.exif_orientation={upright}", f"output={tmp_path}/run")
    codes = {}
    for name in ("photo.jpg", "as_read.png"):
        run("tokenize", tmp_path / name, "-t", tmp_path / "run", "-o", tmp_path / f"{name}.npz")
        codes[name] = np.load(tmp_path / f"{name}.npz")["codes"]
    np.testing.assert_array_equal(codes["photo.jpg"], codes["as_read.png"])
    assert reading_of_run(str(tmp_path / "run")).upright is upright
    (view,) = build_views(str(tmp_path / "run"), None, None, None, 0)
    seen = read_image(photograph.read_bytes(), max_pixels=10**6, upright=view.upright).image
    assert view.upright is upright
    np.testing.assert_array_equal(np.asarray(view.show(seen).grid), codes["photo.jpg"][0])
    run("export", tmp_path / "run", "--format", "paddle", "-o", tmp_path / "exported")
    exported = load_exported(tmp_path / "exported", kind="tokenizer")
    assert exported.reading.upright is upright
    list(encode_files(exported, [str(photograph)], tmp_path / "exported.npz", reading=exported.reading))
    np.testing.assert_array_equal(np.load(tmp_path / "exported.npz")["codes"], codes["photo.jpg"])
    assert load_tokenizer(tmp_path / "run").num_codes == exported.num_codes
