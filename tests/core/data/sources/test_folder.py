# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data import ImageFolder
from beitv2_core.data.sources.folder import PathList
from beitv2_core.data.sources.image_file import Reading
from beitv2_core.errors import DataError


def write(path, value=100, mode="RGB", size=(12, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 20, 30)).convert(mode).save(path, **options)
    return path


def test_nested_images_are_found_in_sorted_order_and_other_files_are_not(tmp_path):
    for name in ("b/x.JPG", "a/deep/y.png", "z.webp", "a/w.bmp", "a/v.tiff", "a/u.tif", ".hidden/h.png", "b/.h.png"):
        write(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
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
    ("mode", "name"),
    [
        ("L", "x.png"),
        ("P", "x.png"),
        ("RGBA", "x.png"),
        ("CMYK", "x.jpg"),
        ("1", "x.tiff"),
        ("LA", "x.png"),
        ("RGB", "x.webp"),
        ("RGB", "x.bmp"),
    ],
)
def test_every_8_bit_mode_becomes_rgb_as_pillow_converts_it(tmp_path, mode, name):
    path = tmp_path / name
    pixels = np.random.RandomState(0).randint(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = image.convert("RGB")
    got = ImageFolder(tmp_path).load(0).image
    assert got.mode == "RGB" and got.tobytes() == expected.tobytes()


def broken_folder(tmp_path, good=6):
    for number in range(good):
        write(tmp_path / "images" / f"{number}.png", value=number)
    (tmp_path / "images" / "1.png").write_bytes(b"not an image")
    truncated = tmp_path / "images" / "3.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 20, 3), dtype=np.uint8)).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:600])
    return tmp_path / "images"


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
    with pytest.raises(DataError, match="none of 2 images"):
        ImageFolder(tmp_path, max_corrupt=1.0).load(0)


def test_a_image_of_too_many_pixels_is_named_with_size_limit_and_setting(tmp_path):
    write(tmp_path / "a.png", size=(12, 10))
    write(tmp_path / "b.png", size=(5, 5))
    folder = ImageFolder(tmp_path, max_corrupt=0.5, reading=Reading(max_pixels=100))
    assert folder.load(0).path.endswith("b.png")
    reason = folder.corrupt.found[str(tmp_path / "a.png")]
    assert all(fact in reason for fact in ("12 x 10", "120", "100", "data.max_pixels=120"))
    assert ImageFolder(tmp_path, reading=Reading(max_pixels=120)).load(0).image.size == (12, 10)


def test_a_pipe_named_as_a_image_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    write(tmp_path / "b.png")
    folder = ImageFolder(tmp_path, max_corrupt=0.5)
    assert folder.load(0).path.endswith("b.png")
    assert "not a file" in folder.corrupt.found[str(tmp_path / "a.png")]


def test_missing_and_empty_folders_say_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist; expected a folder"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(DataError, match="text.txt is a file"):
        ImageFolder(tmp_path / "text.txt")
    with pytest.raises(DataError, match="no images found.*jpg"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="no folders.*one folder per class"):
        ImageFolder(tmp_path, with_classes=True)
    with pytest.raises(DataError, match="list.txt cannot be read"):
        ImageFolder(tmp_path, list_file=tmp_path / "list.txt")
    for options, name in (({"setting": "--test"}, "--test"), ({"setting": "validation.root"}, "validation.root")):
        with pytest.raises(DataError) as caught:
            ImageFolder(tmp_path / "nowhere", **options)
        assert name in str(caught.value) and "data.root" not in str(caught.value)


def test_a_path_list_keeps_any_file_name(tmp_path):
    names = ["ä/ö.png", "x y.jpg", "", "bad\udcff.png"]
    paths = pickle.loads(pickle.dumps(PathList(names)))
    assert list(paths) == names and paths[-1] == names[-1] and paths[1:3] == names[1:3]
    with pytest.raises(IndexError):
        paths[4]


def test_images_that_are_not_read_are_told_and_other_kinds_are_found(tmp_path, caplog):
    for name in ("a.gif", "b.ppm", "c.pgm", "d.JFIF"):
        write(tmp_path / name, mode="L" if name == "c.pgm" else "RGB", **({"format": "JPEG"} if "J" in name else {}))
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "logo.svg").write_text("<svg/>")
    with caplog.at_level(logging.WARNING, logger="beitv2_core"):
        folder = ImageFolder(tmp_path)
    assert list(folder.paths) == ["a.gif", "b.ppm", "c.pgm", "d.JFIF"]
    assert [folder.load(i).image.size for i in range(4)] == [(12, 10)] * 4
    (line,) = [record.getMessage() for record in caplog.records]
    assert all(fact in line for fact in ("2 file", ".heic", ".svg", "Convert"))


@pytest.fixture
def animals(tmp_path):
    for name in ("cat/1.png", "dog/2.png", "fox/3.png"):
        write(tmp_path / name)
    return tmp_path


def labels_of(folder):
    return [folder.load(i).label for i in range(len(folder))]


def test_given_classes_number_folders_and_lists_even_when_some_do_not_come(animals):
    classes = ["fox", "cat", "dog"]
    folder = ImageFolder(animals, classes=classes)
    assert folder.classes == classes and labels_of(folder) == [1, 2, 0]
    names = animals / "list.txt"
    names.write_text("dog/2.png dog\nfox/3.png fox\n")
    folder = ImageFolder(animals, list_file=names, classes=classes)
    assert folder.classes == classes and labels_of(folder) == [2, 0]
    names.write_text("dog/2.png 2\nfox/3.png 0\n")
    assert labels_of(ImageFolder(animals, list_file=names, classes=classes)) == [2, 0]


@pytest.mark.parametrize(("text", "facts"), [
    ("dog/2.png dog\nfox/3.png wolf\n", ("line 2", "wolf", "fox, cat, dog")),
    ("dog/2.png 2\nfox/3.png 3\n", ("line 2", "3 classes", "0 .. 2")),
    ("dog/2.png dog\nfox/3.png 0\n", ("line 2", "number", "names")),
    ("dog/2.png 2\nfox/3.png wolf\n", ("line 2", "wolf")),
    ("dog/2.png 2 1\n", ("line 1", "several")),
    ("dog/2.png -1\n", ("line 1", "-1")),
])
def test_labels_that_are_no_given_class_are_refused_with_line_name_and_classes(animals, text, facts):
    names = animals / "list.txt"
    names.write_text(text)
    with pytest.raises(DataError) as caught:
        ImageFolder(animals, list_file=names, classes=["fox", "cat", "dog"])
    assert str(names) in str(caught.value) and all(fact in str(caught.value) for fact in facts), caught.value


def test_a_folder_that_is_no_given_class_is_refused(animals):
    with pytest.raises(DataError, match="fox.*none of the 2 classes.*cat, dog"):
        ImageFolder(animals, classes=["cat", "dog"])


def test_names_that_are_numbers_of_other_classes_are_refused_in_a_list_and_are_names_as_folders(tmp_path):
    for name in ("1/a.png", "2/a.png", "10/a.png"):
        write(tmp_path / name)
    folder = ImageFolder(tmp_path, with_classes=True)
    assert folder.classes == ["1", "10", "2"]
    assert labels_of(ImageFolder(tmp_path, classes=folder.classes)) == [0, 1, 2]
    (tmp_path / "list.txt").write_text("2/a.png 2\n1/a.png 1\n")
    with pytest.raises(DataError, match="line 2.*label 1 is the name of class 0 and the number of class '10'"):
        ImageFolder(tmp_path, list_file=tmp_path / "list.txt", classes=folder.classes)


def test_identifiers_are_not_taken_for_class_numbers(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 1440764000\n")
    with pytest.raises(DataError, match="line 1.*1440764000"):
        ImageFolder(tmp_path, list_file=tmp_path / "list.txt", with_classes=True)
