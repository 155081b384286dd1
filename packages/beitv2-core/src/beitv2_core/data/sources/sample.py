# SPDX-License-Identifier: Apache-2.0
"""What a data set hands out, and what a class behind `data.dataset` offers."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from PIL import Image

from .image_file import OFFICIAL, Reading


class Sample(NamedTuple):
    """One image: RGB image, class label (or None), where it came from, pixel classes uint8 (H, W) (or None).

    full_size: (width, height) in the file, and reduction: how much smaller it was decoded, where it was (`draft`).
    """

    image: Image.Image
    label: int | None
    path: str
    mask: np.ndarray | None = None
    full_size: tuple[int, int] | None = None
    reduction: int = 1


class Dataset(Protocol):
    """Anything with a length, `load(index)` and the names of its classes (None when it has none)."""

    @property
    def classes(self) -> list[str] | None: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample: ...


class Asked(NamedTuple):
    """What is asked of a data set besides its settings.

    split ("train", "test") and size: of a data set that has a split.  report: file that lists undecodable images.
    with_classes: labels are needed; classes: the names they are numbers of.  reading: how files become pixels.
    setting, list_setting: what the user gave folder and list by, for messages.
    """

    split: str = "train"
    size: int | None = None
    report: Path | None = None
    with_classes: bool = False
    classes: Sequence[str] | None = None
    reading: Reading = OFFICIAL
    setting: str = "data.root"
    list_setting: str = "data.list_file"


class ImageSource(abc.ABC):
    """A `Dataset` that settings name (`datasets.SOURCES`).

    Images that lie in files also have `fingerprint()` and `content(index)`, which `identity` is made of, `names()` and
    `keep(numbers)`, by which some are held out, and `labels` (int64, or None where no classes were asked for); drawn
    ones have none of these.
    """

    #: whether classes get their names from the files themselves, not from a list of names
    class_folders: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def of_settings(cls, data: Any, asked: Asked) -> ImageSource:
        """The images of a section `data`.  Raises DataError for what is missing or not as expected."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a path on the command line is of this kind; what nobody recognises is a folder."""
        return False

    @classmethod
    def labelled(cls, data: Any) -> bool:
        """Whether images of these settings have labels for sure; looked up without reading them all."""
        return False

    @classmethod
    def takes_all(cls, data: Any) -> bool:
        """Whether everything below `data.root` is part of it, also what is no more there or not yet."""
        return False

    @classmethod
    @abc.abstractmethod
    def files_of(cls, data: Any) -> set[str]:
        """The files that images of these settings lie in, by where they are; DataError where they are no more there."""

    @abc.abstractmethod
    def files_read(self) -> set[str]:
        """The files that these images lie in, by where they are; none for drawn ones."""


def spread(dataset: Any, count: int | None) -> Any:
    """`count` images spread evenly over a data set (files are sorted: the first ones are alike), or all of them."""
    if count is None or len(dataset) <= count:
        return dataset
    return Chosen(dataset, np.linspace(0, len(dataset) - 1, count).astype(np.int64))


class Chosen:
    """Some images of a data set, by their numbers, in that order."""

    def __init__(self, dataset: Any, numbers: Any) -> None:
        self.dataset, self.numbers = dataset, np.asarray(numbers, dtype=np.int64)
        self.classes = dataset.classes
        labels = getattr(dataset, "labels", None)
        self.labels = None if labels is None else labels[self.numbers]
        if hasattr(dataset, "corrupt"):
            self.corrupt = dataset.corrupt  # files that cannot be read count for the whole

    def __len__(self) -> int:
        return len(self.numbers)

    def load(self, index: int) -> Sample:
        """Image `index` of the chosen ones."""
        return self.dataset.load(int(self.numbers[index]))
