# SPDX-License-Identifier: Apache-2.0
"""Images in tar files (WebDataset's layout), read where they lie."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import DataError
from ...files.cache import cache_folder
from ..rng import derive_seed
from .corrupt import CorruptFiles
from .folder import MAX_REPLACEMENTS
from .image_file import OFFICIAL, Decoded, Reading, Shrink, decode_bytes, reason_of
from .labels import label_words
from .sample import Asked, ImageSource, Sample
from .tar_index import BAD_LABEL, MOST_CLASSES, NO_LABEL, read_index

CLASSES_FILE = "classes.txt"
#: after NAME: a file beside NAME-*.tar while `beitv2 make-shards` writes them
UNFINISHED_SHARDS = ".unfinished"
MAX_OPEN = 16


class ShardSet(ImageSource):
    """All images of some tar files, in the order of the files and of their members, decoded to RGB on demand.

    root: a folder with .tar files, a .tar file, a pattern (`train-{000..146}.tar`, `{a,b}.tar`) or a list of these.
    with_classes: every sample needs a label (`key.cls`, or `key.json` with "label" or "cls"); the classes are the lines
    of `classes.txt` beside the first file, or the numbers up to the greatest label.  classes, max_corrupt, report,
    reading, setting: as in `ImageFolder`; an undecodable member is replaced by the next sample.  window: files among
    which an epoch's order is mixed.  Nothing is unpacked: an image is one read at a known place, found by an index
    that is made once (`tar_index`).  Raises DataError naming file and member.
    """

    def __init__(self, root: str | Path | Sequence[str], *, with_classes: bool = False,
                 classes: Sequence[str] | None = None, max_corrupt: float = 0.001, report: str | Path | None = None,
                 window: int = 4, reading: Reading = OFFICIAL, setting: str = "data.root") -> None:
        self.root, self.window, self.reading = root, window, reading
        self.files = find_shards(root, setting)
        cache = cache_folder() / "shards"  # for shards in folders that cannot be written to
        self._parts = [read_index(path, cache) for path in self.files]
        self._starts = np.cumsum([0, *(len(part.names) for part in self._parts)])
        self.corrupt = CorruptFiles(len(self), max_corrupt, report)
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        if with_classes or classes is not None:
            self.labels, self.classes = self._read_labels()
        if classes is not None and self.labels is not None:
            self.labels, self.classes = self._renumbered(self.labels, list(self.classes or ()), list(classes), setting)

    @classmethod
    def of_settings(cls, data: Any, asked: Asked) -> ShardSet:
        """The images in the tar files of `data.root`."""
        return cls(data.root or [], with_classes=asked.with_classes, classes=asked.classes,
                   max_corrupt=data.max_corrupt, report=asked.report, window=data.shard_window, reading=asked.reading,
                   setting=asked.setting)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A tar file, or a folder with some."""
        return path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))

    @classmethod
    def files_of(cls, data: Any) -> set[str]:
        """The tar files."""
        return {os.path.realpath(path) for path in find_shards(data.root or [])}

    def files_read(self) -> set[str]:
        """The tar files, by where they lie."""
        return {os.path.realpath(path) for path in self.files}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        kinds = f", {len(self.classes)} classes" if self.classes is not None else ""
        return f"ShardSet({self.root}, {len(self.files)} files, {len(self)} images{kinds})"

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """An epoch's order, int64 (length,): files are shuffled, then the images of every `window` files together.

        A function of (seed, epoch) and the files only; reading stays within a few files at a time.
        """
        draws = np.random.RandomState(derive_seed("shards", seed, epoch) & 0xFFFFFFFF)
        files = draws.permutation(len(self.files))
        mixed = []
        for start in range(0, len(files), self.window):
            near = [np.arange(self._starts[i], self._starts[i + 1]) for i in files[start : start + self.window]]
            mixed.append(draws.permutation(np.concatenate(near)))
        return np.concatenate(mixed)

    def fingerprint(self) -> str:
        """SHA-256 of the members' names in order: which image has which number."""
        return hashlib.sha256("".join(part.names.fingerprint() for part in self._parts).encode()).hexdigest()

    def names(self) -> Sequence[str]:
        """Number of the file and member, by which images are held out: the same wherever the files lie."""
        return [f"{file:06d}/{name}" for file, part in enumerate(self._parts) for name in part.names]

    def keep(self, numbers: np.ndarray) -> None:
        """Forget all images but these, which are in rising order."""
        bounds = np.searchsorted(numbers, self._starts)
        self._parts = [part.of(numbers[first:end] - start) for part, first, end, start
                       in zip(self._parts, bounds, bounds[1:], self._starts)]
        self._starts = np.cumsum([0, *(len(part.names) for part in self._parts)])
        self.labels = None if self.labels is None else self.labels[numbers]
        self.corrupt.total = len(numbers)

    def path(self, index: int) -> str:
        """What an image is called in logs and lists: tar file, slash, member."""
        file, place = self._place(index)
        return f"{self.files[file]}/{self._parts[file].names[place]}"

    def load(self, index: int, shrink: Shrink | None = None) -> Sample:
        """Decode image `index`; an undecodable one is replaced by the next that can be decoded.

        shrink: as in `decode_file`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"ShardSet: image {index} was asked for, there are {len(self)}.")
        for step in range(min(len(self), MAX_REPLACEMENTS)):
            at = (index + step) % len(self)
            try:
                found = self._decode(at, shrink)
            except Exception as error:  # broken input: OSError, SyntaxError, struct.error, ...
                self.corrupt.add(self.path(at), reason_of(error))
                continue
            label = None if self.labels is None else int(self.labels[at])
            return Sample(found.image, label, self.path(at), full_size=found.full_size, reduction=found.reduction)
        raise DataError(f"ShardSet: none of {min(len(self), MAX_REPLACEMENTS)} images from number {index} on can be "
                        f"decoded (the first: {self.path(index)}). Check the shards.")

    def close(self) -> None:
        """Close the tar files; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # a worker opens files of its own

    def __del__(self) -> None:
        if "_open" in self.__dict__:
            self.close()

    def _place(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])

    def content(self, index: int) -> bytes:
        """The bytes of a member as they are; raises OSError where they cannot be read."""
        file, place = self._place(index)
        part = self._parts[file]
        size, offset = int(part.sizes[place]), int(part.offsets[place])
        opened = self._opened(file)
        opened.seek(offset)
        content = opened.read(size)
        if len(content) != size:
            raise OSError(f"{len(content)} of {size} bytes at {offset}; the tar file was changed or cut")
        return content

    def open(self, index: int) -> BinaryIO:
        """A member as a file; raises OSError where it cannot be read."""
        return io.BytesIO(self.content(index))

    def _decode(self, index: int, shrink: Shrink | None) -> Decoded:
        return decode_bytes(self.content(index), shrink, self.reading)

    def _opened(self, file: int) -> BinaryIO:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        while len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[file] = open(self.files[file], "rb")
        return self._open[file]

    def _read_labels(self) -> tuple[np.ndarray, list[str]]:
        labels = np.concatenate([part.labels for part in self._parts])
        for value, what in ((NO_LABEL, "no label"),
                            (BAD_LABEL, f"a label that is no whole number from 0 to {MOST_CLASSES - 1:,}")):
            without = np.flatnonzero(labels == value)
            if without.size:
                raise DataError(f"{self.path(int(without[0]))}: {what} ({without.size} of {len(labels)} samples); "
                                "classes were asked for. Expected key.cls with a number, or key.json with \"label\": "
                                "`beitv2 make-shards --with-classes` writes them.")
        listed = Path(self.files[0]).with_name(CLASSES_FILE)
        if not listed.is_file():
            return labels, [str(label) for label in range(int(labels.max()) + 1)]
        classes = os.fsdecode(listed.read_bytes()).lstrip("\ufeff").splitlines()
        if int(labels.max()) >= len(classes):
            at = int(labels.argmax())
            raise DataError(f"{self.path(at)}: label {labels[at]}, but {listed} names {len(classes)} classes. Complete "
                            "the list or remove it.")
        return labels, classes

    def _renumbered(self, labels: np.ndarray, own: list[str], classes: list[str],
                    setting: str) -> tuple[np.ndarray, list[str]]:
        """Labels as numbers of `classes`: by the names of classes.txt, or as they are where there are none."""
        used, first = np.unique(labels, return_index=True)
        listed = Path(self.files[0]).with_name(CLASSES_FILE)
        words = [(str(listed) if listed.is_file() else self.path(int(at)), own[int(label)])
                 for label, at in zip(used, first)]
        number_of = dict(zip(used.tolist(), label_words(words, classes, setting, only_names=listed.is_file())))
        return np.asarray([number_of[int(label)] for label in labels], dtype=np.int64), classes


def find_shards(root: str | Path | Sequence[str], setting: str = "data.root") -> list[Path]:
    """The tar files of a folder (sorted), a path, a pattern or a list of these; DataError where one is missing."""
    files: list[Path] = []
    for item in [root] if isinstance(root, (str, Path)) else root:
        if Path(item).is_dir():
            found = sorted(path for path in Path(item).iterdir() if path.suffix == ".tar" and path.name[0] != ".")
            if not found:
                raise DataError(f"{setting}: {item} holds no .tar files. Give a folder of shards, or write some with "
                                "`beitv2 make-shards`.")
        else:
            found = [Path(name) for name in expand_braces(str(item))]
        files += found
    missing = [path for path in files if not path.is_file()]
    if missing or not files:
        raise DataError(f"{setting}: {len(missing)} of {len(files)} shards of {root} do not exist (the first: "
                        f"{missing[0] if missing else 'none was named'}). Expected .tar files, a folder of them, or a "
                        "pattern such as train-{000..146}.tar.")
    for folder in dict.fromkeys(path.parent for path in files):
        for mark in folder.glob(f"*{UNFINISHED_SHARDS}"):
            part = [path for path in files if path.parent == folder and path.name.startswith(f"{mark.stem}-")]
            if part:
                raise DataError(f"{setting}: {part[0]} is one of shards that `beitv2 make-shards` did not finish "
                                f"writing; some may be missing or old. Let it finish, or start it again with "
                                f"--overwrite (it removes {mark}).")
    return files


def expand_braces(pattern: str) -> list[str]:
    """The names behind `{000..146}` (with its zeros) and `{a,b}`, as a shell would give them."""
    choices = []
    for number, piece in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        span = re.fullmatch(r"(\d+)\.\.(\d+)", piece) if number % 2 else None
        if span is not None:
            first, last, width = int(span[1]), int(span[2]), len(span[1])
            choices.append([f"{value:0{width}d}" for value in range(first, last + 1)])
        elif number % 2:
            choices.append(piece.split(","))
        else:
            choices.append([piece])
    return ["".join(parts) for parts in itertools.product(*choices)]
