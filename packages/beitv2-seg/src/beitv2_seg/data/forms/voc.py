# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: JPEGImages, SegmentationClass, and the names of each part in ImageSets/Segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from beitv2_core.data.sources.lists import read_words
from beitv2_core.errors import DataError
from beitv2_seg.data.forms.found import Asked, FoundSamples, folders_in, some, stems_below, void_map

IMAGES, LABELS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
CLASSES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
           "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")


def voc_folder(root: Path) -> Optional[Path]:
    """The folder with JPEGImages and ImageSets/Segmentation: `root`, or the one VOC folder in it (of VOCdevkit)."""
    for base in (root, root / "VOCdevkit"):
        inside = [folder for folder in folders_in(base) if _is_voc(folder)] if base.is_dir() else []
        if base.is_dir() and _is_voc(base):
            return base
        if len(inside) > 1:
            raise DataError(f"{base}: {' and '.join(folder.name for folder in inside)} are VOC folders; expected one. "
                            f"Give it as dataset_root: {inside[0]}")
        if inside:
            return inside[0]
    return None


def read_voc(root: Path, asked: Asked) -> FoundSamples:
    """The pairs of a part; label maps hold the numbers of the classes in their palette's indices, 255 is void.

    asked.labels: the folder of label maps; asked.list_file: a list of names other than that of the part.
    """
    base = voc_folder(root)
    if base is None:
        raise DataError(f"{root}: expected Pascal VOC with the folders {IMAGES}, {LABELS} and {LISTS}; found "
                        f"{some(folder.name for folder in folders_in(root)) or 'no folder'}. Give the folder that "
                        "holds them as dataset_root.")
    label_folder = base / (asked.labels or LABELS)
    if not label_folder.is_dir():
        raise DataError(f"{label_folder}: no such folder; expected the label maps. Unpack the whole data set, or name "
                        "their folder: labels: FOLDER.")
    names = Path(asked.list_file) if asked.list_file else base / LISTS / f"{asked.part}.txt"
    if not names.is_file():
        lists = sorted(file.name for file in (base / LISTS).glob("*.txt"))
        raise DataError(f"{names}: no such file; expected the names of the part {asked.part}, one a line. "
                        f"Found in {base / LISTS}: {some(lists) or 'no list'}. Name one: {asked.part}_path: FILE.")
    images, labels = stems_below(base / (asked.images or IMAGES)), stems_below(label_folder)
    files = []
    for line, name in read_words(names, what=f"{asked.part}_path"):
        for what, there, folder in (("image", images, base / (asked.images or IMAGES)), ("label map", labels,
                                                                                        label_folder)):
            if name not in there:
                raise DataError(f"{names}, line {line}: there is no {what} {name!r} in {folder}. Expected the name of "
                                "an image without its ending. Complete the data set, or take the name out.")
        files.append((images[name], labels[name]))
    if not files:
        raise DataError(f"{names}: names no image; expected a name a line.")
    return FoundSamples("voc", root, sorted(files), asked.part, list(CLASSES), void_map(asked.ignored),
                        ignored=asked.ignored)


def _is_voc(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / LISTS).is_dir()
