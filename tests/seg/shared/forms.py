# SPDX-License-Identifier: Apache-2.0
"""Small segmentation data sets in every form, made from the same scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from own_data import as_png, scene, settings
from PIL import Image

#: labelId of the scenes' classes 0, 1, 2 (road, sidewalk, building) and their trainIds
CITY_IDS = np.array([7, 8, 11], np.uint8)


def as_jpeg(image, path):
    Image.fromarray(image).save(path, quality=95)


def scenes(count=3):
    """{name: (image, label)}"""
    return {f"p{i}": scene() for i in range(count)}


def save_pair(image_file: Path, image, label_file: Path, label) -> None:
    for file in (image_file, label_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    (as_jpeg if image_file.suffix == ".jpg" else as_png)(image, image_file)
    as_png(label, label_file)


def write_folders(root, parts=("train", "val"), *, images="images", labels="masks", part_first=False, suffix=""):
    """{part: {name: label}} of folders of images and label maps; "" is a part without a folder."""
    made = {}
    for part in parts:
        made[part] = {}
        for name, (image, label) in scenes().items():
            name = f"{part}{name}"
            folders = [root / part / kind if part_first else root / kind / part for kind in (images, labels)]
            save_pair(folders[0] / f"{name}.jpg", image, folders[1] / f"{name}{suffix}.png", label)
            made[part][name] = label
    return made


def write_cityscapes(root, *, kind="labelIds"):
    """{part: {name: trainIds}}; the first row is labelId 4 (static), which is void."""
    made = {}
    for part in ("train", "val"):
        made[part] = {}
        for name, (image, label) in scenes().items():
            ids = CITY_IDS[label]
            ids[0] = 4
            known = label.copy()
            known[0] = 255
            save_pair(root / "leftImg8bit" / part / "ulm" / f"ulm_{name}_leftImg8bit.png", image,
                      root / "gtFine" / part / "ulm" / f"ulm_{name}_gtFine_{kind}.png",
                      ids if kind == "labelIds" else known)
            made[part][f"ulm_{name}_leftImg8bit"] = known
    return made


def indexed(label, path, colours):
    """A palette PNG with the label's numbers as indices."""
    image = Image.fromarray(label).convert("P")
    image.putdata(label.reshape(-1).tolist())
    table = np.zeros((256, 3), np.uint8)
    table[:len(colours)], table[255] = colours, (224, 224, 192)
    image.putpalette(table.reshape(-1).tolist())
    image.save(path)


def write_voc(root):
    """{part: {name: label}}; the first row is void."""
    made = {}
    for part in ("train", "val"):
        made[part] = {}
        for name, (image, label) in scenes().items():
            name, label = f"2007_{part}_{name}", label.copy()
            label[0] = 255
            save_pair(root / "JPEGImages" / f"{name}.jpg", image, root / "SegmentationClass" / f"{name}.png", label)
            indexed(label, root / "SegmentationClass" / f"{name}.png", [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
            made[part][name] = label
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in made[part]))
    return made


def runs(mask) -> list[int]:
    """Uncompressed run lengths, column by column, of zeros first."""
    flat = np.concatenate([[0], np.asarray(mask).T.reshape(-1), [0]])
    edges = np.flatnonzero(np.diff(flat))
    ends = np.concatenate([[0], edges, [mask.size]])
    return np.diff(ends).tolist()


def compressed(counts: list[int]) -> str:
    """COCO's compressed run lengths (cocoapi, maskApi.c: rleToString)."""
    text = []
    for place, value in enumerate(counts):
        value = value - counts[place - 2] if place > 2 else value
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text.append(chr((bits | 0x20 if more else bits) + 48))
    return "".join(text)


def write_coco(root, *, categories=((3, "red"), (7, "green")), parts=("train", "val")):
    """{part: {name: label with 0 = background, 1, 2 = the categories in order of their ids}}.

    A rectangle in each of the three ways that outlines are written; the second category is over the first one's middle.
    """
    made = {}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part in parts:
        made[part], images, annotations = {}, [], []
        for number, (name, (image, _)) in enumerate(scenes().items()):
            name = f"{part}{name}"
            height, width = image.shape[:2]
            (root / "images").mkdir(exist_ok=True)
            as_jpeg(image, root / "images" / f"{name}.jpg")
            images.append({"id": 10 + number, "file_name": f"{name}.jpg", "height": height, "width": width})
            first, second = np.zeros((2, height, width), np.uint8)
            first[4:20, 6:30], second[10:30, 16:40] = 1, 1
            size = [height, width]
            outlines = [[[16, 10, 40, 10, 40, 30, 16, 30]], {"size": size, "counts": runs(second)},
                        {"size": size, "counts": compressed(runs(second))}]
            annotations += [
                {"id": 100 + 2 * number, "image_id": 10 + number, "category_id": categories[0][0], "iscrowd": 0,
                 "segmentation": [[6, 4, 30, 4, 30, 20, 6, 20]]},
                {"id": 101 + 2 * number, "image_id": 10 + number, "category_id": categories[1][0], "iscrowd": 0,
                 "segmentation": outlines[number]}]
            made[part][name] = np.where(second, 2, first).astype(np.uint8)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(
            {"images": images, "annotations": annotations,
             "categories": [{"id": key, "name": word} for key, word in categories]}))
    return made


def check_equal(found, labels):
    """The samples' label maps are these, by the names of their images."""
    assert sorted(Path(image).stem for image, _ in found.files) == sorted(labels)
    for number, (image, _) in enumerate(found.files):
        np.testing.assert_array_equal(found.label(number), labels[Path(image).stem])


def of_form(root, folder, **changes):
    """Settings of both data sets in a folder, without lists."""
    for part in ("train", "val"):
        changes.setdefault(f"{part}_dataset__{part}_path", None)
    return settings(root, folder, **changes)
