# SPDX-License-Identifier: Apache-2.0
"""Label maps beside their images: folders `images` and `masks` with equal names, or NAME_mask.png beside NAME.jpg."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional

from beitv2_core.data.sources.folder import find_images
from beitv2_core.errors import DataError
from beitv2_seg.data.forms.found import (
    PARTS,
    Asked,
    FoundSamples,
    check_paired,
    folders_in,
    part_of,
    some,
    stems_below,
)

#: names of folders, in any case
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
LABEL_FOLDERS = ("masks", "mask", "annotations", "annotation", "labels", "label", "ann", "anns", "gt", "groundtruth",
                 "ground_truth", "segmentation", "segmentations")
#: what a label map's name has behind its image's
SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_annotation", "-mask", "-label")


class Layout(NamedTuple):
    """Folders of images and of label maps of one part (None: of all there is); one and the same for suffixes."""

    part: Optional[str]
    images: Path
    labels: Path


def folder_layouts(root: Path, asked: Asked) -> list[Layout]:
    """The parts of a folder with images and label maps in folders of their own; [] where it is none.

    Raises DataError where several folders could be meant.
    """
    top = _both(root, asked)
    found = [] if top is None else _parts_inside(*top)
    below = [(part_of(folder.name), _both(folder, asked)) for folder in folders_in(root) if part_of(folder.name)]
    parts = [Layout(part, *both) for part, both in below if both is not None]
    if found and parts:
        raise DataError(f"{root}: images lie in {found[0].images.relative_to(root)} and in "
                        f"{parts[0].images.relative_to(root)}; expected one of the two. Give the folder that is meant "
                        "as dataset_root, or its folders as images and labels.")
    return _once(found or parts, root)


def read_folders(root: Path, asked: Asked) -> FoundSamples:
    """Pairs of equal names in two folders; the endings may differ, and label maps may have a known suffix."""
    layout = chosen(folder_layouts(root, asked), root, asked, "folders images and masks")
    images, labels = stems_below(layout.images), stems_below(layout.labels)
    suffixes = (asked.label_suffix,) if asked.label_suffix else SUFFIXES
    if asked.label_suffix or not set(images) & set(labels):
        ends = [end for end in suffixes if any(f"{name}{end}" in labels for name in images)]
        if len(ends) == 1:
            labels = {name[:-len(ends[0])] if name.endswith(ends[0]) else name: file for name, file in labels.items()}
    where = f"{layout.images} and {layout.labels}"
    if not images or not labels:
        raise DataError(f"{layout.images if not images else layout.labels}: no image file is there; expected "
                        f"{'images' if not images else 'label maps'}. Was the data set unpacked to the end?")
    check_paired(images, labels, where)
    return FoundSamples("folders", root, [(images[name], labels[name]) for name in sorted(images)], layout.part,
                        ignored=asked.ignored)


def suffix_layouts(root: Path, asked: Asked) -> list[Layout]:
    """The parts of a folder with label maps beside their images; [] where it is none."""
    parts = [Layout(part_of(folder.name), folder, folder) for folder in folders_in(root)
             if part_of(folder.name) and _suffixes_in(folder, asked)]
    return _once(parts, root) or ([Layout(None, root, root)] if _suffixes_in(root, asked) else [])


def read_suffixes(root: Path, asked: Asked) -> FoundSamples:
    """NAME_mask.png beside NAME.jpg, at any depth."""
    layout = chosen(suffix_layouts(root, asked), root, asked, "NAME_mask.png beside NAME.jpg")
    ends = _suffixes_in(layout.images, asked)
    if len(ends) > 1:
        raise DataError(f"{layout.images}: names end with {' and with '.join(ends)}; expected one. Say which are label "
                        f"maps: label_suffix: {ends[0]}")
    files = _by_name(layout.images)
    labels = {name[:-len(ends[0])]: file for name, (file, *_) in files.items() if name.endswith(ends[0])}
    plain = {name: several for name, several in files.items() if not name.endswith(ends[0])}
    twins = [several for several in (*plain.values(), *(files[name + ends[0]] for name in labels)) if len(several) > 1]
    if twins:
        raise DataError(f"{layout.images}: {some(twins[0])} differ in the ending only. Remove or rename one.")
    images = {name: several[0] for name, several in plain.items()}
    check_paired(images, labels, str(layout.images))
    return FoundSamples("suffix", root, [(images[name], labels[name]) for name in sorted(images)], layout.part,
                        ignored=asked.ignored)


def chosen(layouts: list[Layout], root: Path, asked: Asked, what: str) -> Layout:
    """The layout of the part asked for; DataError, with the parts there are, where there is none."""
    if not layouts:
        raise DataError(f"{root}: expected {what}; {contents(root)}. Give the folder of the data as dataset_root, or "
                        "say where they are: images: FOLDER, labels: FOLDER.")
    for layout in layouts:
        if layout.part in (None, asked.part):
            return layout
    raise DataError(f"{root}: there is no part for mode {asked.part} (a folder "
                    f"{' or '.join(PARTS[asked.part])}); found: {', '.join(str(one.part) for one in layouts)}. Add it"
                    + (", or let images of train be held out: held_out: 0.2 at the top of the YAML."
                       if asked.part == "val" else "."))


def contents(folder: Path) -> str:
    """What lies in a folder, in words."""
    entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir()
                     if not entry.name.startswith("."))
    return f"it holds {some(entries)}" if entries else "it is empty"


def _both(base: Path, asked: Asked) -> Optional[tuple[Path, Path]]:
    """The folder of images and that of label maps in `base`, where both are there."""
    images = _named(base, asked.images, IMAGE_FOLDERS, "images")
    labels = _named(base, asked.labels, LABEL_FOLDERS, "labels")
    return None if images is None or labels is None else (images, labels)


def _named(base: Path, given: Optional[str], names: tuple[str, ...], key: str) -> Optional[Path]:
    if given is not None:
        return base / given if (base / given).is_dir() else None
    found = [folder for folder in folders_in(base)
             if folder.name.lower() in names and next(find_images(folder, tell=False), None) is not None]
    if len(found) > 1:
        raise DataError(f"{base}: {' and '.join(folder.name for folder in found)} could both be the folder of {key}. "
                        f"Say which: {key}: {found[0].name}")
    return found[0] if found else None


def _parts_inside(images: Path, labels: Path) -> list[Layout]:
    """images/train and masks/train, ...; the folders themselves where they have no parts."""
    parts = [folder for folder in folders_in(images) if part_of(folder.name)]
    if not parts:
        return [Layout(None, images, labels)]
    there = {folder.name: folder for folder in folders_in(labels)}
    missing = [folder.name for folder in parts if folder.name not in there]
    if missing and len(missing) == len(parts):
        raise DataError(f"{images} has the parts {some(folder.name for folder in parts)}, {labels} has "
                        f"{some(there) or 'none'}; expected the same. Give both the same folders.")
    return [Layout(part_of(folder.name), folder, there[folder.name]) for folder in parts if folder.name in there]


def _once(layouts: list[Layout], root: Path) -> list[Layout]:
    """The layouts, if every part is there once."""
    for layout in layouts:
        same = [one for one in layouts if one.part == layout.part]
        if len(same) > 1:
            raise DataError(f"{root}: {' and '.join(str(one.images.relative_to(root)) for one in same)} could both be "
                            f"the part {layout.part}. Rename one, or give the folder as dataset_root.")
    return layouts


def _by_name(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(find_images(folder)):
        found.setdefault(Path(name).with_suffix("").as_posix(), []).append(str(folder / name))
    return found


def _suffixes_in(folder: Path, asked: Asked) -> list[str]:
    """The suffixes of label maps that lie beside their images."""
    names = {Path(name).with_suffix("").as_posix() for name in find_images(folder, tell=False)}
    wanted = (asked.label_suffix,) if asked.label_suffix else SUFFIXES
    return [end for end in wanted if any(f"{name}{end}" in names for name in names)]
