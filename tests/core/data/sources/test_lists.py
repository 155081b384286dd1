# SPDX-License-Identifier: Apache-2.0
"""Lists as people write them are read, or the line and the remedy are named."""

from __future__ import annotations

import logging
import os

import pytest

from beitv2_core.data import ImageFolder, read_images, read_labelled, read_pairs
from beitv2_core.errors import DataError
from beitv2_core.evaluation.codes import list_images

IMAGES = ("images/p 1.png", "images/车牌2.png", "images/c.JPG")


@pytest.fixture
def root(tmp_path):
    """Images and label maps of the same names in two folders; names with a blank and with Chinese letters."""
    for name in IMAGES:
        for folder in ("images", "labels"):
            path = tmp_path / name.replace("images", folder)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    return tmp_path


def lines(separator=" ", names=("cat", "dog", "cat"), end="\n"):
    return "".join(f"{image}{separator}{name}{end}" for image, name in zip(IMAGES, names))


FORMS = {
    "plain": lines().encode(),
    "bom": b"\xef\xbb\xbf" + lines().encode(),
    "bom and crlf": b"\xef\xbb\xbf" + lines(end="\r\n").encode(),
    "old mac": lines(end="\r").encode(),
    "utf-16": lines().encode("utf-16"),
    "utf-16 without mark": lines().encode("utf-16-le"),
    "gbk": lines().encode("gbk"),
    "blank last lines": (lines() + "\n  \n\t\n").encode(),
    "comments": ("# made by hand\n" + lines() + "# end\n").encode(),
    "tabs": lines("\t").encode(),
    "commas": lines(",").encode(),
    "commas and blanks": lines(", ").encode(),
    "many blanks": lines("    ").encode(),
    "trailing blanks": lines(end="   \n").encode(),
    "heading": ("image,label\n" + lines(",")).encode(),
    "backslashes": lines().replace("/", "\\").encode(),
    "dotted": "".join(f"./{line}\n" for line in lines().splitlines()).encode(),
    "quotes": "".join(f'"{image}" "{name}"\n' for image, name in zip(IMAGES, ("cat", "dog", "cat"))).encode(),
    "quotes and commas": "".join(f'"{image}","{name}"\n'
                                 for image, name in zip(IMAGES, ("cat", "dog", "cat"))).encode(),
    "end of file mark": (lines() + "\x1a").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_labelled_list_of_any_form_is_read(root, form):
    path = root / "list.txt"
    path.write_bytes(FORMS[form])
    found = read_labelled(path, root)
    assert [os.path.normpath(line.path).replace("\\", "/") for line in found] == list(IMAGES)
    assert [line.label for line in found] == ["cat", "dog", "cat"]
    folder = ImageFolder(root, list_file=path, with_classes=True)
    assert folder.classes == ["cat", "dog"] and folder.labels.tolist() == [0, 1, 0]
    assert all((root / path.replace("\\", "/")).is_file() for path in folder.paths)
    assert [os.path.normpath(one) for one in read_images(path)] == [str(root / name) for name in IMAGES]


def test_paths_are_relative_to_the_root_or_to_the_list_or_absolute(root, tmp_path):
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    path = elsewhere / "a.txt"
    path.write_text(f"images/c.JPG 1\n{root}/images/c.JPG 2\n../images/c.JPG 3\n")
    found = ImageFolder(root, list_file=path, with_classes=True)
    assert found.labels.tolist() == [1, 2, 3]
    assert all(os.path.samefile(root / name, root / "images/c.JPG") for name in found.paths)


def test_labels_may_hold_blanks(root):
    path = root / "list.txt"
    path.write_text("images/c.JPG great white shark\nimages/p 1.png\tsea lion\n")
    assert [line.label for line in read_labelled(path, root)] == ["great white shark", "sea lion"]


def test_files_without_an_ending_are_found_where_they_are(root):
    (root / "images" / "0001").touch()
    path = root / "list.txt"
    path.write_text("images/0001 7\n")
    assert read_labelled(path, root)[0][1:] == ("images/0001", "7")


def test_a_list_without_labels_reads_whole_names(root):
    (root / "my.png photo.png").touch()
    path = root / "list.txt"
    path.write_text("my.png photo.png\nimages/p 1.png\n")
    assert list(ImageFolder(root, list_file=path).paths) == ["my.png photo.png", "images/p 1.png"]


@pytest.mark.parametrize(("text", "facts"), [
    (b"images/c.JPG cat\nimages/p 1.png\n", ("line 2", "no label")),
    (b"images/c.JPG cat\nimages/gone.png cat\n", ("line 2", "images/gone.png", "relative")),
    (b"C:\\data\\images\\c.JPG cat\n", ("line 1", "C:", "Windows")),
    (b"images\\gone.png cat\n", ("line 1", "gone.png", "\\\\")),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", ("no text", "UTF-8")),
])
def test_what_cannot_be_read_is_named_with_file_line_and_remedy(root, text, facts):
    path = root / "list.txt"
    path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_labelled(path, root)
    assert str(path) in str(caught.value) and all(fact in str(caught.value) for fact in facts), caught.value


def test_a_few_missing_files_are_tolerated_as_unreadable_ones_are(root, caplog):
    path = root / "list.txt"
    path.write_text("images/c.JPG 0\nimages/gone.png 0\n")
    with caplog.at_level(logging.WARNING, logger="beitv2_core"):
        assert len(ImageFolder(root, list_file=path, with_classes=True, max_corrupt=0.5)) == 2
    assert "line 2" in caplog.text and "gone.png" in caplog.text
    with pytest.raises(DataError, match="line 2"):
        ImageFolder(root, list_file=path, with_classes=True, max_corrupt=0.4)


def test_reading_gbk_is_said_in_one_line_and_names_with_gbk_bytes_are_found(root, caplog):
    path = root / "list.txt"
    path.write_bytes(FORMS["gbk"])
    with caplog.at_level(logging.WARNING, logger="beitv2_core"):
        read_labelled(path, root)
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(path) in line and "gb18030" in line
    (root / "images" / os.fsdecode("狗.png".encode("gbk"))).touch()
    path.write_bytes("images/狗.png 0\n".encode("gbk"))
    assert os.fsencode(read_labelled(path, root)[0].path) == "images/狗.png".encode("gbk")


PAIRS = {
    "blanks": " ", "tabs": "\t", "commas": ",", "a comma and a blank": ", ", "bars": "|",
}


@pytest.mark.parametrize("form", PAIRS)
@pytest.mark.parametrize("told", [None, " ", "\t"])
def test_pairs_are_parted_where_both_files_are(root, form, told):
    path = root / "train.txt"
    text = "".join(f"{image}{PAIRS[form]}{image.replace('images', 'labels')}\r\n" for image in IMAGES) + "\r\n"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("gbk"),
                    text.replace("/", "\\").encode()):
        path.write_bytes(content)
        found = read_pairs(path, root, separator=told)
        assert [(pair.line, os.path.relpath(pair.image, root)) for pair in found] == [(i + 1, one) for i, one
                                                                                     in enumerate(IMAGES)]
        assert [os.path.relpath(pair.label_map, root) for pair in found] == [one.replace("images", "labels")
                                                                             for one in IMAGES]


def test_pairs_in_quotes_and_images_alone_are_read(root):
    path = root / "train.txt"
    path.write_text('"images/p 1.png" "labels/p 1.png"\n')
    assert read_pairs(path, root)[0].label_map == str(root / "labels/p 1.png")
    path.write_text("images/p 1.png\nimages/c.JPG labels/c.JPG\n")
    found = read_pairs(path, root, labels=False)
    assert [pair.label_map for pair in found] == [None, str(root / "labels/c.JPG")]
    with pytest.raises(DataError, match="line 1.*label map"):
        read_pairs(path, root)


@pytest.mark.parametrize(("text", "facts"), [
    ("images/c.JPG labels/gone.png\n", ("line 1", "label map", "labels/gone.png")),
    ("images/gone.png labels/c.JPG\n", ("line 1", "image", "images/gone.png")),
    ("", ("names no file",)),
])
def test_a_pair_with_a_missing_file_is_named(root, text, facts):
    path = root / "train.txt"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_pairs(path, root)
    assert str(path) in str(caught.value) and all(fact in str(caught.value) for fact in facts), caught.value


def test_commands_take_lists_among_files_and_folders(root):
    path = root / "only.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "images/车牌2.png\r\nimages/p 1.png labels/p 1.png\r\n\r\n".encode())
    assert list_images([path, root / "images/c.JPG"]) == [str(root / name) for name in
                                                            ("images/车牌2.png", "images/p 1.png", "images/c.JPG")]
    path.write_text("images/gone.png\n")
    with pytest.raises(DataError, match="only.txt, line 1.*gone.png"):
        list_images([path])


@pytest.mark.parametrize("line", ["a b " * 50_000, ".jpg " * 50_000, "'" * 99_999, "x" * 20_000])
def test_a_line_that_is_none_is_named_before_it_takes_the_memory(tmp_path, line):
    file = tmp_path / "list.txt"
    file.write_text(f"a.png\n{line}\n")
    for read in (lambda: read_images(file), lambda: read_pairs(file, tmp_path), lambda: read_labelled(file, tmp_path)):
        with pytest.raises(DataError, match=r"list.txt, line 2: has \d+,\d+ characters"):
            read()


def test_an_image_in_quotes_with_nothing_behind_it_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("'gone.png'\n")
    with pytest.raises(DataError, match="list.txt, line 1: .*gone.png"):
        read_pairs(tmp_path / "list.txt", tmp_path)


def test_a_long_label_and_a_name_of_many_words_are_read(tmp_path):
    name = " ".join(str(number % 10) for number in range(100)) + ".png"
    (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text(f"{name} {'word ' * 1500}\n")
    (found,) = read_labelled(tmp_path / "list.txt", tmp_path)
    assert found.path == name and found.label.startswith("word word")
