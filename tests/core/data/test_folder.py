from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data import ImageFolder
from beitv2_core.data.folder import PathList, split_label
from beitv2_core.errors import DataError


def write(path, value=100, mode="RGB", size=(12, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 20, 30)).convert(mode).save(path, **options)
    return path


def test_nested_pictures_are_found_in_sorted_order_and_other_files_are_not(tmp_path):
    for name in ("b/x.JPG", "a/deep/y.png", "z.webp", "a/w.bmp", "a/v.tiff", "a/u.tif", ".hidden/h.png", "b/.h.png"):
        write(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    folder = ImageFolder(tmp_path)
    assert list(folder.paths) == ["a/deep/y.png", "a/u.tif", "a/v.tiff", "a/w.bmp", "b/x.JPG", "z.webp"]
    sample = folder.load(0)
    assert sample.path == str(tmp_path / "a/deep/y.png") and sample.label is None and sample.mask is None
    assert sample.image.mode == "RGB" and sample.image.size == (12, 10)


def test_links_in_a_circle_end(tmp_path):
    write(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert list(ImageFolder(tmp_path).paths) == ["a/x.png"]


def test_classes_are_the_first_folders_in_sorted_order(tmp_path):
    for name in ("dog/1.png", "cat/sub/2.png", "cat/3.png"):
        write(tmp_path / name)
    (tmp_path / "empty").mkdir()
    folder = ImageFolder(tmp_path, with_classes=True)
    assert folder.classes == ["cat", "dog", "empty"]
    assert [(folder.paths[i], folder.load(i).label) for i in range(3)] == [
        ("cat/3.png", 0),
        ("cat/sub/2.png", 0),
        ("dog/1.png", 1),
    ]


def test_a_list_file_gives_order_and_labels(tmp_path):
    for name in ("a b.png", "c.png"):
        write(tmp_path / name)
    names = tmp_path / "list.txt"
    names.write_text("# comment\nc.png 3\n\na b.png 1\n")
    folder = ImageFolder(tmp_path, list_file=names, with_classes=True)
    assert [folder.load(i).label for i in (0, 1)] == [3, 1] and folder.classes == ["0", "1", "2", "3"]
    assert list(ImageFolder(tmp_path, list_file=names).paths) == ["c.png", "a b.png"]
    names.write_text("c.png\tzebra\na b.png\tape\n")
    folder = ImageFolder(tmp_path, list_file=names, with_classes=True)
    assert folder.classes == ["ape", "zebra"] and [folder.load(i).label for i in (0, 1)] == [1, 0]
    names.write_text("c.png 3\na b.png\n")
    with pytest.raises(DataError, match="line 2.*no label"):
        ImageFolder(tmp_path, list_file=names, with_classes=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a/b c.jpg", ("a/b c.jpg", "")),
        ("a/b c.jpg 7", ("a/b c.jpg", "7")),
        ("a\tx y", ("a", "x y")),
        ("my.png photo.png", ("my.png photo.png", "")),
    ],
)
def test_a_line_is_split_at_its_label_only(line, expected):
    assert split_label(line) == expected


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("L", "x.png"),
        ("P", "x.png"),
        ("RGBA", "x.png"),
        ("CMYK", "x.jpg"),
        ("I;16", "x.png"),
        ("1", "x.tiff"),
        ("LA", "x.png"),
        ("RGB", "x.webp"),
        ("RGB", "x.bmp"),
    ],
)
def test_every_mode_becomes_rgb_as_pillow_converts_it(tmp_path, mode, name):
    path = tmp_path / name
    pixels = np.random.RandomState(0).randint(0, 256, (9, 11, 3), dtype=np.uint8)
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(pixels).convert(mode).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = image.convert("RGB")
    got = ImageFolder(tmp_path).load(0).image
    assert got.mode == "RGB" and got.tobytes() == expected.tobytes()


def broken_folder(tmp_path, good=6):
    for number in range(good):
        write(tmp_path / "pictures" / f"{number}.png", value=number)
    (tmp_path / "pictures" / "1.png").write_bytes(b"not a picture")
    truncated = tmp_path / "pictures" / "3.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 20, 3), dtype=np.uint8)).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:600])
    return tmp_path / "pictures"


def test_an_undecodable_file_is_named_and_replaced_by_the_same_sample_each_time(tmp_path, caplog):
    root = broken_folder(tmp_path)
    with caplog.at_level(logging.WARNING, logger="beitv2_core"):
        folder = ImageFolder(root, max_corrupt=0.5)
        assert [folder.load(1).path for _ in range(3)] == [str(root / "2.png")] * 3
        assert folder.load(3).path == str(root / "4.png")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "1.png" in lines[0] and "3.png" in lines[1]


def test_too_many_undecodable_files_stop_with_the_list_in_a_file(tmp_path):
    root = broken_folder(tmp_path)
    report = tmp_path / "run" / "corrupt.txt"
    folder = ImageFolder(root, max_corrupt=0.2, report=report)
    folder.load(1)
    with pytest.raises(DataError, match="2 of 6 files.*20.*corrupt.txt"):
        folder.load(3)
    listed = report.read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [str(root / "1.png"), str(root / "3.png")]


def test_a_folder_of_broken_files_ends_with_an_error(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(DataError, match="none of 2 pictures"):
        ImageFolder(tmp_path, max_corrupt=1.0).load(0)


@pytest.mark.parametrize("limit", [100, 50])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    # 120 pixels: Pillow by itself only warns above the limit, and raises above twice the limit
    write(tmp_path / "a.png", size=(12, 10))
    write(tmp_path / "b.png", size=(5, 5))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    folder = ImageFolder(tmp_path, max_corrupt=0.5)
    assert folder.load(0).path.endswith("b.png")
    assert "DecompressionBomb" in next(iter(folder.corrupt.found.values()))


def test_a_pipe_named_as_a_picture_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    write(tmp_path / "b.png")
    folder = ImageFolder(tmp_path, max_corrupt=0.5)
    assert folder.load(0).path.endswith("b.png")
    assert "not a file" in folder.corrupt.found[str(tmp_path / "a.png")]


def test_missing_and_empty_folders_say_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="nowhere is nothing.*jpg"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(DataError, match="text.txt is a file"):
        ImageFolder(tmp_path / "text.txt")
    with pytest.raises(DataError, match="no pictures found.*jpg"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="no folders.*one folder per class"):
        ImageFolder(tmp_path, with_classes=True)
    with pytest.raises(DataError, match="list.txt cannot be read"):
        ImageFolder(tmp_path, list_file=tmp_path / "list.txt")


def test_a_path_list_keeps_any_file_name(tmp_path):
    names = ["ä/ö.png", "x y.jpg", "", "bad\udcff.png"]
    paths = pickle.loads(pickle.dumps(PathList(names)))
    assert list(paths) == names and paths[-1] == names[-1] and paths[1:3] == names[1:3]
    with pytest.raises(IndexError):
        paths[4]
