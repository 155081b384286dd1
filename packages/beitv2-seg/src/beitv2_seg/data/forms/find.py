# SPDX-License-Identifier: Apache-2.0
"""Which form segmentation data has, and its samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from beitv2_core.data.sources.lists import read_pairs
from beitv2_core.errors import ConfigError, DataError
from beitv2_seg.data.forms.cityscapes import is_cityscapes, read_cityscapes
from beitv2_seg.data.forms.coco import coco_files, read_coco
from beitv2_seg.data.forms.folders import contents, folder_layouts, read_folders, read_suffixes, suffix_layouts
from beitv2_seg.data.forms.found import PARTS, Asked, FoundSamples, PathLike
from beitv2_seg.data.forms.voc import read_voc, voc_folder

log = logging.getLogger("beitv2_seg")
#: form -> what it is, whether a folder has it, and what reads it
FORMS: dict[str, tuple[str, Callable[[Path, Asked], bool], Callable[[Path, Asked], FoundSamples]]] = {
    "folders": ("folders images and masks (annotations, labels) with equal names",
                lambda root, asked: bool(folder_layouts(root, asked)), read_folders),
    "suffix": ("NAME_mask.png beside NAME.jpg", lambda root, asked: bool(suffix_layouts(root, asked)), read_suffixes),
    "cityscapes": ("leftImg8bit and gtFine", lambda root, asked: is_cityscapes(root), read_cityscapes),
    "voc": ("JPEGImages, SegmentationClass and ImageSets/Segmentation",
            lambda root, asked: voc_folder(root) is not None, read_voc),
    "coco": ("COCO's JSON of annotations", lambda root, asked: bool(coco_files(root)), read_coco),
}
LIST = "list"


def find_samples(path: PathLike, *, form: Optional[str] = None, part: str = "train", list_file: Optional[str] = None,
                 images: Optional[str] = None, labels: Optional[str] = None, label_suffix: Optional[str] = None,
                 separator: Optional[str] = None, unlabelled: Optional[str] = None,
                 classes: Optional[Sequence[str]] = None, ignored: int = 255) -> FoundSamples:
    """The images and label maps of a folder, a list of pairs or a COCO JSON.  Costs no Paddle.

    form: one of `FORMS` or "list"; default: a list where there is one, else the one form the folder has.  part:
    "train", "val" or "test", of data that come in parts.  ignored: the label of pixels without a class.  The others:
    see `Asked`.
    Raises ConfigError for unknown words, DataError where nothing is found, where two forms fit, and for images without
    label map and label maps without image.
    """
    root = Path(path)
    if form is not None and form not in (LIST, *FORMS):
        raise ConfigError(f"Dataset: form: {form!r} is unknown; expected one of {', '.join((LIST, *FORMS))}, or none: "
                          "then the folder tells.")
    if part not in PARTS:
        raise ConfigError(f"Dataset: mode is {part!r}; expected one of {', '.join(PARTS)}.")
    if root.is_file() and list_file is None:
        list_file = str(root)
        inside = root.suffix.lower() == ".json" and root.parent.name == "annotations"  # beside COCO's images
        root = root.parent.parent if inside else root.parent
    if not root.is_dir():
        raise DataError(f"Dataset: dataset_root: {root}: no such folder; expected the one the data lie in.")
    asked = Asked(part, list_file, images, labels, label_suffix, separator, unlabelled, classes, ignored)
    if form is None and list_file is not None:
        form = "coco" if list_file.lower().endswith(".json") else LIST
    if form == LIST:
        return _listed(root, asked)
    said = form is not None
    form = form or _form_of(root, asked)
    found = FORMS[form][2](root, asked)
    log.info("%s: %d samples%s, form: %s (%s)%s", root, len(found.files), f" of {found.part}" if found.part else "",
             form, FORMS[form][0], "" if said else ", found by looking")
    return found


def _form_of(root: Path, asked: Asked) -> str:
    fitting = [name for name, (_, fits, _) in FORMS.items() if fits(root, asked)]
    if len(fitting) > 1:
        what = " and ".join(f"{name} ({FORMS[name][0]})" for name in fitting)
        raise DataError(f"{root}: could be {what}; expected one form. Say which: form: {fitting[0]}")
    if not fitting:
        known = "; ".join(f"{name}: {what}" for name, (what, _, _) in FORMS.items())
        raise DataError(f"{root}: no form of segmentation data is recognised there: {contents(root)}. Expected one of: "
                        f"{known}; or a list with a line `image.jpg label.png` for each sample: {asked.part}_path: "
                        "FILE. Folders of other names are named by images: FOLDER and labels: FOLDER.")
    return fitting[0]


def _listed(root: Path, asked: Asked) -> FoundSamples:
    if asked.list_file is None:
        raise ConfigError(f"Dataset: {asked.part}_path is missing; with mode {asked.part} it names the list of images "
                          f"and label maps. Add {asked.part}_path: FILE, a line `image.jpg label.png` for each sample.")
    pairs = read_pairs(asked.list_file, root, separator=asked.separator, setting=f"{asked.part}_path")
    return FoundSamples(LIST, root, [(pair.image, str(pair.label_map)) for pair in pairs], asked.part,
                        ignored=asked.ignored)
