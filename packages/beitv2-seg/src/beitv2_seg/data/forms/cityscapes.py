# SPDX-License-Identifier: Apache-2.0
"""Cityscapes as released: leftImg8bit/PART/CITY/*_leftImg8bit.png and gtFine/PART/CITY/*_gtFine_labelIds.png."""

from __future__ import annotations

from pathlib import Path

from beitv2_core.data.sources.folder import find_images
from beitv2_core.errors import DataError
from beitv2_seg.data.forms.found import Asked, FoundSamples, check_paired, folders_in, some, void_map

IMAGES, LABELS = "leftImg8bit", "gtFine"
KINDS = ("labelTrainIds", "labelIds")
#: labelId of every class that is trained, in the order of its trainId (cityscapesScripts, helpers/labels.py)
CLASSES = {"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
           "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
           "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33}
VOID_IDS = tuple(number for number in range(34) if number not in CLASSES.values())


def is_cityscapes(root: Path) -> bool:
    """Whether a folder holds both."""
    return (root / IMAGES).is_dir() and (root / LABELS).is_dir()


def label_ids(ignored: int = 255) -> dict[str, int]:
    """labelId -> trainId, or the ignored label for those that are not trained."""
    return {**{str(number): ignored for number in VOID_IDS},
            **{str(number): train_id for train_id, number in enumerate(CLASSES.values())}}


def read_cityscapes(root: Path, asked: Asked) -> FoundSamples:
    """The pairs of a part.  labelIds are mapped to the 19 trainIds; labelTrainIds are taken as they are.

    asked.labels: which of the two is read; default: labelTrainIds where there are any.
    """
    if not is_cityscapes(root):
        raise DataError(f"{root}: expected Cityscapes as released, with the folders {IMAGES} and {LABELS}; found "
                        f"{some(folder.name for folder in folders_in(root)) or 'no folder'}. Give the folder that "
                        "holds both as dataset_root.")
    if asked.labels not in (None, *KINDS):
        raise DataError(f"labels: {asked.labels!r}; of Cityscapes {' or '.join(KINDS)} can be read.")
    ends = {kind: f"_{LABELS}_{kind}.png" for kind in KINDS}
    images = _named(root / IMAGES / asked.part, f"_{IMAGES}.png")
    maps = {kind: _named(root / LABELS / asked.part, end) for kind, end in ends.items()}
    kind = asked.labels or ("labelTrainIds" if maps["labelTrainIds"] else "labelIds")
    where = f"{root / IMAGES / asked.part} and {root / LABELS / asked.part}"
    if not images or not maps[kind]:
        raise DataError(f"{where}: {len(images)} files *_{IMAGES}.png and {len(maps[kind])} files *{ends[kind]}; "
                        "expected one of each for every image. Unpack leftImg8bit_trainvaltest.zip and "
                        "gtFine_trainvaltest.zip into dataset_root.")
    check_paired(images, maps[kind], where)
    files = [(images[name], maps[kind][name]) for name in sorted(images)]
    if kind == "labelIds":
        return FoundSamples("cityscapes", root, files, asked.part, list(CLASSES), label_ids(asked.ignored), "refuse",
                            asked.ignored)
    return FoundSamples("cityscapes", root, files, asked.part, list(CLASSES), void_map(asked.ignored),
                        ignored=asked.ignored)


def _named(folder: Path, end: str) -> dict[str, str]:
    """{CITY/NAME: file} of the files with that ending."""
    names = sorted(find_images(folder)) if folder.is_dir() else []
    return {Path(name).as_posix()[:-len(end)]: str(folder / name) for name in names if name.endswith(end)}
