# SPDX-License-Identifier: Apache-2.0
"""Near-duplicates: planted ones are found, others are not."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.data import DigitScenes
from beitv2_core.inference.alignment import Crops, align, through
from beitv2_core.inference.duplicates import coarse, find_duplicates
from beitv2_core.inference.embed import embed_files
from beitv2_core.inference.embedding_file import Embeddings, read_embeddings
from beitv2_core.inference.loaded import load_model


def changed(image: Image.Image, kind: int, number: int) -> Image.Image:
    """A copy: 0 compressed (when it is saved), 1 resized, 2 mirrored, 3 cropped by a tenth, 4 all of these."""
    width, height = image.size
    if kind in (3, 4):
        left, top = (number % 3) * width // 20, (number % 2) * height // 10
        image = image.crop((left, top, left + 9 * width // 10, top + 9 * height // 10))
    if kind in (2, 4):
        image = ImageOps.mirror(image)
    if kind in (1, 4):
        factor = (0.5, 0.8, 1.5)[number % 3]
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    return image


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """45 photographs with digits in one folder; copies of 15 of them in another."""
    folder = tmp_path_factory.mktemp("planted")
    scenes = DigitScenes("train", size=45, image_size=96, digits=(2, 3))
    for name in ("originals", "copies"):
        (folder / name).mkdir()
    for number in range(45):
        image = scenes.load(number).image
        image.save(folder / "originals" / f"{number:02d}.jpg", quality=95)
        if number < 15:
            changed(image, number % 5, number).save(folder / "copies" / f"{number:02d}.jpg",
                                                    quality=40 + 10 * (number % 5) if number % 5 in (0, 4) else 95)
    return folder


@pytest.fixture(scope="module")
def files(planted, pretraining_run, tmp_path_factory):
    model, folder = load_model(pretraining_run), tmp_path_factory.mktemp("features")
    for name in ("originals", "copies"):
        paths = sorted(map(str, (planted / name).iterdir()))
        list(embed_files(model, paths, folder / f"{name}.npz"))
    return [folder / "originals.npz", folder / "copies.npz"]


def test_planted_copies_are_found_and_nothing_else(files):
    found = find_duplicates([read_embeddings(path) for path in files])
    assert {(pair.first, pair.second) for pair in found} == {(number, 45 + number) for number in range(15)}
    assert {pair.first % 5 for pair in found if pair.mirrored} == {2, 4}
    assert len({pair.group for pair in found}) == 15 and all(pair.similarity >= 0.98 for pair in found)
    assert all(-1 <= pair.cosine <= 1.0001 for pair in found)


def test_between_leaves_out_the_pairs_of_one_file(files):
    whole = [read_embeddings(path) for path in files]
    twice = [whole[0]._replace(paths=whole[0].paths * 2, features=np.tile(whole[0].features, (2, 1)),
                               thumbnails=np.tile(whole[0].thumbnails, (2, 1, 1))), whole[1]]
    inside = find_duplicates(twice)
    across = find_duplicates(twice, between=True)
    assert len([pair for pair in inside if pair.second < 90]) == 45
    assert {(pair.first % 45, pair.second - 90) for pair in across} == {(number, number) for number in range(15)}
    assert len(across) == 30


def test_a_picture_with_a_part_that_differs_is_another_one(planted, tmp_path):
    image = Image.open(planted / "originals" / "20.jpg")
    image = image.resize((384, 384), Image.Resampling.BICUBIC)
    other = image.copy()
    ImageDraw.Draw(other).rectangle((250, 250, 290, 290), fill=(250, 250, 250))
    for name, one in (("a", image), ("b", other)):
        one.save(tmp_path / f"{name}.png")
    file = Embeddings("x.csv", {"fingerprint": "f"}, [str(tmp_path / "a.png"), str(tmp_path / "b.png")],
                      np.zeros((2, 4), np.float32))
    assert find_duplicates([file], least=0.9) == []
    (pair,) = find_duplicates([file], least=0.9, most=9.0)
    assert pair.change > 0.45, "a file without thumbnails has its images read"


def test_pictures_of_one_colour_are_no_pairs():
    assert not coarse(np.full((3, 32, 32), 90, np.uint8)).any()


def test_a_crop_is_aligned_to_where_it_was_cut_out():
    rows, columns = np.mgrid[:64, :64]
    wave = (np.sin(rows / 7) * np.cos(columns / 5) + np.sin((rows + columns) / 9)) * 60 + 120
    whole = wave[None].astype(np.float32)
    truth = np.float32([[0.92, 1.5, 0.9, -2.0]])
    crop, _ = through(whole, truth)
    crops = Crops(64)
    found, window = crops.start(crops.vectors(whole), crops.vectors(crop))
    assert found[0] > 0.8
    np.testing.assert_allclose(align(whole, crop, window, steps=12), truth, atol=0.05)


def test_the_command_writes_a_table_and_a_picture(files, tmp_path):
    arguments = ["duplicates", *map(str, files), "--between", "-o", str(tmp_path / "d.csv"), "--figure",
                 str(tmp_path / "d.png"), "--pairs", "3", "--num-workers", "0"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0 and "15 pairs of 30 images, in 15 groups, among 60" in result.output
    rows = list(csv.DictReader((tmp_path / "d.csv").open()))
    assert len(rows) == 15 and rows[0]["first"].endswith(".jpg") and {row["mirrored"] for row in rows} == {"True",
                                                                                                         "False"}
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"
    arguments[arguments.index("-o") + 1] = str(tmp_path / "d.json")
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert len(json.loads((tmp_path / "d.json").read_text())) == 15
    result = CliRunner().invoke(cli.app, ["duplicates", str(files[0]), "--figure", str(tmp_path / "none.png"),
                                          "--num-workers", "0"])
    assert "0 pairs of 0 images" in result.output and f"not written: {tmp_path / 'none.png'}" in result.output
    result = CliRunner().invoke(cli.app, ["duplicates", str(files[0]), "--between"])
    assert result.exit_code == 2 and "Give two files or more" in result.output
