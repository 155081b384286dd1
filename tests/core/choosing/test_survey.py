# SPDX-License-Identifier: Apache-2.0
"""A look at a folder says what is there, in seconds, and refuses what nothing can be learnt from."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from PIL import Image

from beitv2_core.choosing.survey import HEADERS, survey
from beitv2_core.data import ImageFolder, Reading, ShardSet
from beitv2_core.data.sources.shard_writer import write_shards
from beitv2_core.errors import DataError


def noise(mode: str, size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    draws = np.random.RandomState(seed)
    if mode == "I;16":
        return Image.fromarray(draws.randint(0, 65536, size[::-1]).astype(np.uint16))
    return Image.fromarray(draws.randint(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(mode)


@pytest.fixture
def mixed(tmp_path):
    """Every mode that people have, in folders of any depth."""
    for number, (mode, ending) in enumerate([("RGB", "jpg"), ("L", "png"), ("P", "gif"), ("RGBA", "png"),
                                             ("CMYK", "jpg"), ("I;16", "png"), ("1", "png"), ("LA", "png")]):
        folder = tmp_path / "a" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        noise(mode, (40 + number, 30)).save(folder / f"{number}.{ending}")
    return tmp_path


def look(folder, **options):
    return survey(ImageFolder(folder, max_corrupt=1.0), str(folder), Reading(**options))


def test_mixed_modes_are_counted_and_read(mixed):
    found = look(mixed)
    assert found.images == found.looked_at == len(found.sizes) == 8 and not found.broken and found.plain == 0
    assert {"RGB", "L", "P", "RGBA", "CMYK", "1", "LA"} <= set(found.modes) and found.short_side == 30
    assert "8 images" in found.lines()[0] and "40 x 30 to 47 x 30" in found.lines()[0]


def test_broken_files_are_counted_and_many_are_refused(mixed):
    (mixed / "broken.jpg").write_bytes(b"not an image")
    found = look(mixed)
    assert len(found.broken) == 1 and "broken.jpg" in found.lines()[1]
    for number in range(3):
        (mixed / f"broken{number}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="4 of 12 files.*Convert or remove"):
        look(mixed)


def test_images_of_one_colour_are_refused_with_the_reason(tmp_path):
    for number in range(20):
        Image.new("RGB", (32, 32), (12 * number, 40, 90)).save(tmp_path / f"{number}.jpg")
    with pytest.raises(DataError, match="20 of 20 images .* of one colour each, so there is nothing to learn"):
        look(tmp_path)
    for number in range(5):
        noise("RGB", seed=number).save(tmp_path / f"noise{number}.png")
    assert look(tmp_path).plain == 20  # some show something: told, not refused


def test_a_photograph_taken_upright_is_measured_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB", (60, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert look(tmp_path, upright=True).sizes == ((20, 60),) and look(tmp_path).sizes == ((60, 20),)


def test_two_hundred_thousand_images_take_seconds(tmp_path):
    noise("RGB").save(tmp_path / "one.jpg")
    links = tmp_path / "many"
    for part in range(20):
        (links / str(part)).mkdir(parents=True)

    class Many(ImageFolder):
        """A folder whose names are many and whose files are one: making the links would be the slow part."""

        def open(self, index):
            return open(tmp_path / "one.jpg", "rb")

    os.link(tmp_path / "one.jpg", links / "0" / "0.jpg")
    folder = Many(links)
    folder.paths = type(folder.paths)([f"{number % 20}/{number}.jpg" for number in range(200_000)])
    began = time.process_time()
    found = survey(folder, "many", Reading())
    assert found.images == 200_000 and found.looked_at == HEADERS
    assert time.process_time() - began < 2


def test_images_in_tar_files_are_looked_at_too(mixed, tmp_path, monkeypatch):
    monkeypatch.setenv("BEITV2_CACHE", str(tmp_path / "cache"))
    list(write_shards(ImageFolder(mixed), tmp_path / "shards", per_shard=3))
    found = survey(ShardSet(tmp_path / "shards"), "shards", Reading())
    assert found.images == 8 and found.short_side == 30
