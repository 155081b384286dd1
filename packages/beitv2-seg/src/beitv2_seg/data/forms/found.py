# SPDX-License-Identifier: Apache-2.0
"""What is found in segmentation data of any form: images, label maps, classes, and what the labels mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Protocol, Union

import numpy as np

from beitv2_core.data.sources.folder import find_images
from beitv2_core.data.sources.image_file import MAX_PIXELS
from beitv2_core.errors import DataError
from beitv2_seg.data.label_files import Unlisted, read_label

PathLike = Union[str, Path]
#: mode of a data set -> names of its part's folders and files
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
MOST_NAMED = 5


class Drawn(Protocol):
    """Label maps that lie in no files of their own: drawn from annotations."""

    def label(self, image: str, label_map: Mapping[str, int], *, ignored: int, unlisted: Unlisted,
              max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The label map (H, W) of an image file, mapped as `read_label` maps."""

    def content(self, image: str) -> bytes:
        """What tells these annotations of an image from others."""


class Asked(NamedTuple):
    """What the settings say about the files: all of them may be left out where the folder tells.

    part: train, val or test; list_file: the list of pairs, of names (VOC) or the JSON (COCO) of that part; images,
    labels: folders below the data's, or of Cityscapes the kind of label file; label_suffix: what a label map's name has
    behind its image's; separator: of lists; unlabelled: of COCO, what a pixel without annotation is; classes: names
    that its categories must have; ignored: the label of pixels without a class.
    """

    part: str = "train"
    list_file: Optional[str] = None
    images: Optional[str] = None
    labels: Optional[str] = None
    label_suffix: Optional[str] = None
    separator: Optional[str] = None
    unlabelled: Optional[str] = None
    classes: Optional[Sequence[str]] = None
    ignored: int = 255


class FoundSamples(NamedTuple):
    """Pairs of image and label map and how their labels are read.

    form: the form's name; root: the data's folder; files: (image, label map) as they can be opened, sorted by image;
    part: of a data set that comes in parts, or None for all there is; classes: names found in the data, by number;
    label_map, unlisted, ignored: as in `read_label`, of the settings or else the form; drawn: where label maps are
    drawn from annotations; beside: where images are held out, the pairs of the other side.
    """

    form: str
    root: Path
    files: list[tuple[str, str]]
    part: Optional[str] = None
    classes: Optional[list[str]] = None
    label_map: Mapping[str, int] = {}
    unlisted: Unlisted = "keep"
    ignored: int = 255
    drawn: Optional[Drawn] = None
    beside: Sequence[tuple[str, str]] = ()

    def label(self, index: int, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The label map (H, W) of a sample; raises what `read_label` raises, DataError for wrong annotations."""
        image, label = self.files[index]
        if self.drawn is not None:
            return self.drawn.label(image, self.label_map, ignored=self.ignored, unlisted=self.unlisted)
        return read_label(label, self.label_map, ignored=self.ignored, unlisted=self.unlisted, max_pixels=max_pixels)

    def names(self) -> list[str]:
        """The images below the data's folder, with slashes on every machine."""
        return [below(self.root, image) for image, _ in self.files]


def below(root: Path, file: str) -> str:
    """A file's path below the data's folder, with slashes; an absolute one where it is not below it."""
    path, folder = Path(file).absolute(), root.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def part_of(word: str) -> Optional[str]:
    """The part of a data set a folder's name means, or None."""
    return next((part for part, words in PARTS.items() if word.lower() in words), None)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in order of their names, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def stems_below(folder: Path) -> dict[str, str]:
    """{path below the folder without its ending, with slashes: file} of all images; DataError where two share it."""
    found: dict[str, str] = {}
    for name in sorted(find_images(folder)):
        stem = Path(name).with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"{folder}: {Path(found[stem]).name} and {Path(name).name} differ in the ending only: it "
                            "cannot be told which one belongs to the other folder's file. Remove or rename one.")
        found[stem] = str(folder / name)
    return found


def some(names: Iterable[object]) -> str:
    """The first names, and how many there are."""
    listed = [str(name) for name in names]
    more = f", ... ({len(listed)})" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


def check_paired(images: Mapping[str, str], labels: Mapping[str, str], where: str) -> None:
    """Raise DataError for an image without label map and the other way round: both by their common name."""
    for what, other, missing, remedy in (
            ("images have", "label map", sorted(set(images) - set(labels)), "label them, or move them away"),
            ("label maps have", "image", sorted(set(labels) - set(images)), "add the images, or move them away")):
        if missing:
            files = [{**images, **labels}[name] for name in missing]
            raise DataError(f"{where}: {len(missing)} of {len(images)} {what} no {other}: {some(files)}. Expected one "
                            f"{other} of the same name each: {remedy}, or name the pairs in a list (train_path).")


def void_map(ignored: int) -> dict[str, int]:
    """The map of label maps whose void is 255, for a run that ignores `ignored`."""
    return {} if ignored == 255 else {"255": ignored}


def words_of(name: str) -> list[str]:
    """The words in a file's name: instances_train2017 has instances and train."""
    return [word for word in re.split(r"[^a-z]+", name.lower()) if word]
