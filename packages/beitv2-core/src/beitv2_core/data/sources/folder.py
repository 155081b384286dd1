# SPDX-License-Identifier: Apache-2.0
"""Images in a folder, or named in a list file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import DataError
from .corrupt import CorruptFiles, logger
from .image_file import (
    EXTENSIONS,
    FOREIGN_EXTENSIONS,
    OFFICIAL,
    Reading,
    Shrink,
    decode_path,
    readable_extensions,
    reason_of,
    tell_foreign,
)
from .labels import label_words, number_words
from .lists import read_labelled
from .sample import Asked, ImageSource, Sample

MAX_REPLACEMENTS = 1000


class PathList(Sequence[str]):
    """A list of strings kept as one block of bytes: a million paths are sent to a worker in a moment."""

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(item) for item in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    @classmethod
    def from_arrays(cls, text: np.ndarray, ends: np.ndarray) -> PathList:
        """The list that `arrays` was taken from."""
        found = cls(())
        found._bytes, found._ends = text.tobytes(), ends
        return found

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All strings' bytes, uint8, and where each ends, int64: for a file."""
        return np.frombuffer(self._bytes, dtype=np.uint8), self._ends

    def fingerprint(self) -> str:
        """SHA-256 of the strings and their order."""
        return hashlib.sha256(self._bytes + self._ends.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):  # type: ignore[no-untyped-def,override]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} in a list of {len(self)} paths")
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])])


class ImageFolder(ImageSource):
    """All images below `root`, sorted by path, decoded to RGB on demand.

    root: folder, nested or flat (any image Pillow reads, by the ending; hidden names are skipped). list_file: one path
    a line (`lists.read_labelled`), relative to `root` or to the list, optionally followed by a label, instead of
    searching. with_classes: labels are the first folder below `root` (sorted by name, as torchvision numbers them), or
    those of the list file. classes: the names that labels are numbers of; folders and lists may then name fewer.
    max_corrupt: share of files that may be undecodable; each is logged and replaced by the next decodable image in
    the list (so the replacement is always the same); above it, DataError, with the list written to `report`.
    reading: how files become pixels. setting, list_setting: what the user gave folder and list by, for messages.
    Raises DataError when root or list file is missing, or holds no image, and for labels that are no classes.
    Source: official `dataset_folder.py: ImageFolder`.
    Departs: the official loader retries other random files for ever and reports nothing.
    """

    class_folders = True

    def __init__(
        self,
        root: str | Path,
        *,
        list_file: str | Path | None = None,
        with_classes: bool = False,
        classes: Sequence[str] | None = None,
        max_corrupt: float = 0.001,
        report: str | Path | None = None,
        reading: Reading = OFFICIAL,
        setting: str = "data.root",
        list_setting: str = "data.list_file",
    ) -> None:
        self.root = Path(root)
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        self.reading, self.setting = reading, setting
        if not self.root.is_dir():
            found = "is a file" if self.root.exists() else "does not exist"
            raise DataError(f"{setting}: {self.root} {found}; expected a folder of images. Give an existing folder.")
        if list_file is not None:
            with_labels = with_classes or classes is not None
            paths = self._read_list(Path(list_file), with_labels, classes, max_corrupt, list_setting)
        elif with_classes or classes is not None:
            paths = self._find_with_classes(classes)
        else:
            paths = sorted(find_images(self.root))
        if not paths:
            where = f"{list_file}" if list_file is not None else f"{self.root} and the folders below it"
            raise DataError(
                f"{list_setting if list_file is not None else setting}: no images found in {where}; looked for "
                f"{', '.join(EXTENSIONS)} (any case). Give a folder that holds images, or a list file."
            )
        self.paths = PathList(paths)
        self.corrupt = CorruptFiles(len(paths), max_corrupt, report)

    @classmethod
    def of_settings(cls, data: Any, asked: Asked) -> ImageFolder:
        """The images below `data.root`, or those that `data.list_file` names."""
        return cls(str(data.root or ""), list_file=data.list_file, with_classes=asked.with_classes,
                   classes=asked.classes, max_corrupt=data.max_corrupt, report=asked.report, reading=asked.reading,
                   setting=asked.setting, list_setting=asked.list_setting)

    @classmethod
    def labelled(cls, data: Any) -> bool:
        """Where all images lie in class folders."""
        return data.list_file is None and os.path.isdir(str(data.root)) and bool(class_folders(Path(str(data.root))))

    @classmethod
    def takes_all(cls, data: Any) -> bool:
        """Unless a list chooses among them."""
        return data.list_file is None

    @classmethod
    def files_of(cls, data: Any) -> set[str]:
        """The image files below `data.root`, or those of the list that are there."""
        root = Path(str(data.root))
        if data.list_file is not None:
            paths = [line.path for line in read_labelled(data.list_file, root, labels=False, may_miss=1.0)]
        else:
            paths = list(find_images(root, tell=False))
        return set(real_paths(root, paths))

    def files_read(self) -> set[str]:
        """The image files, by where they lie."""
        return set(real_paths(self.root, self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        kinds = f", {len(self.classes)} classes" if self.classes is not None else ""
        return f"ImageFolder({self.root}, {len(self)} images{kinds})"

    def fingerprint(self) -> str:
        """SHA-256 of the names in order: which image has which number."""
        return self.paths.fingerprint()

    def names(self) -> Sequence[str]:
        """The paths below `root`, by which images are held out."""
        return self.paths

    def keep(self, numbers: np.ndarray) -> None:
        """Forget all images but these, in this order; the files that may be undecodable are a share of them."""
        self.paths = PathList([self.paths[int(number)] for number in numbers])
        self.labels = None if self.labels is None else self.labels[numbers]
        self.corrupt.total = len(numbers)

    def content(self, index: int) -> bytes:
        """The bytes of a file as they are; raises OSError where it cannot be read."""
        return (self.root / self.paths[index]).read_bytes()

    def path(self, index: int) -> str:
        """What an image is called in logs and lists."""
        return str(self.root / self.paths[index])

    def open(self, index: int) -> BinaryIO:
        """A file, of which a header can be read alone; raises OSError where it cannot be opened."""
        return open(self.root / self.paths[index], "rb")

    def load(self, index: int, shrink: Shrink | None = None) -> Sample:
        """Decode image `index`; an undecodable one is replaced by the next that can be decoded.

        shrink: as in `decode_file`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"ImageFolder: image {index} was asked for, there are {len(self)}.")
        for step in range(min(len(self), MAX_REPLACEMENTS)):
            at = (index + step) % len(self)
            path = str(self.root / self.paths[at])
            try:
                found = decode_path(path, shrink, self.reading)
            except Exception as error:  # broken input: OSError, SyntaxError, struct.error, ...
                self.corrupt.add(path, reason_of(error))
                continue
            label = None if self.labels is None else int(self.labels[at])
            return Sample(found.image, label, path, full_size=found.full_size, reduction=found.reduction)
        raise DataError(
            f"ImageFolder: none of {min(len(self), MAX_REPLACEMENTS)} images from number {index} on can be decoded "
            f"(the first: {self.root / self.paths[index]}). Check {self.root}."
        )

    def _find_with_classes(self, classes: Sequence[str] | None) -> list[str]:
        folders = (entry for entry in os.scandir(self.root) if entry.is_dir())
        names = sorted(entry.name for entry in folders if not entry.name.startswith("."))
        if not names:
            raise DataError(
                f"{self.setting}: {self.root} has no folders, but classes were asked for; expected one folder per "
                "class. Sort the images into folders, give a list file with labels, or do without classes."
            )
        number_of = label_words([(self.root / name, name) for name in names], classes or names, self.setting,
                                only_names=True)
        paths: list[str] = []
        labels: list[int] = []
        for name, label in zip(names, number_of):
            found = sorted(os.path.join(name, path) for path in find_images(self.root / name))
            if not found:
                logger.warning("%s: class folder %s holds no images.", self.root, name)
            paths += found
            labels += [label] * len(found)
        self.classes, self.labels = list(classes or names), np.asarray(labels, dtype=np.int64)
        return paths

    def _read_list(self, list_file: Path, with_labels: bool, classes: Sequence[str] | None, max_corrupt: float,
                   setting: str) -> list[str]:
        lines = read_labelled(list_file, self.root, labels=with_labels, may_miss=max_corrupt, setting=setting)
        if with_labels:
            words = [(f"{list_file}, line {line.line}", line.label) for line in lines]
            labels, self.classes = number_words(words, classes, setting)
            self.labels = np.asarray(labels, dtype=np.int64)
        return [line.path for line in lines]


def class_folders(root: Path) -> list[str]:
    """The folders below `root` where all of its images lie in at least two of them; none else."""
    firsts = set()
    for path in find_images(root):
        first, inside, _ = path.partition(os.sep)
        if not inside:
            return []
        firsts.add(first)
    return sorted(firsts) if len(firsts) > 1 else []


def real_paths(root: str | Path, paths: Iterable[str]) -> Iterator[str]:
    """The files below `root` by where they lie, whatever links lead there: one file has one such path."""
    folders: dict[str, tuple[str, set[str]]] = {}
    for path in paths:
        folder, name = os.path.split(os.path.join(root, path))
        if folder not in folders:
            real = os.path.realpath(folder)
            try:  # a folder's links are read once, not a file's state a million times
                links = {entry.name for entry in os.scandir(real) if entry.is_symlink()}
            except OSError:
                links = set()
            folders[folder] = real, links
        real, links = folders[folder]
        yield os.path.realpath(os.path.join(real, name)) if name in links else os.path.join(real, name)


def find_images(root: Path, *, tell: bool = True) -> Iterator[str]:
    """Yield the paths, relative to `root`, of all images below it; links are followed, loops are not.

    tell: files whose ending says image but which are not read here (HEIC, raw, ...) are told in one line of the log.
    """
    seen: set[str] = set()
    wanted, foreign = readable_extensions(), []
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            if name.lower().endswith(wanted):
                yield os.path.relpath(os.path.join(folder, name), root)
            elif name.lower().endswith(FOREIGN_EXTENSIONS):
                foreign.append(os.path.relpath(os.path.join(folder, name), root))
    if tell:
        tell_foreign(root, foreign)
