"""Pictures in a folder, or named in a list file."""

from __future__ import annotations

import errno
import os
import stat
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from .corrupt import CorruptFiles, logger
from .sample import Sample

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_REPLACEMENTS = 1000
#: errors of a disk or a network file system that may pass, and the seconds to wait before another try
PASSING_ERRORS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.EREMOTEIO)
RETRY_PAUSES = (0.1, 1.0)


def decode(path: str | Path) -> Image.Image:
    """Decode a picture completely as RGB, whatever its mode, as Pillow converts (the official choice).

    Raises whatever Pillow raises for a broken file, `Image.DecompressionBombError` or `...Warning` for a picture of
    more than `Image.MAX_IMAGE_PIXELS` pixels, and OSError for what is no file: a pipe would be waited for without end.
    An input/output error of the disk or the network is tried again twice: it says nothing about the picture.
    Source: official `dataset_folder.py: pil_loader`.
    Departs: Pillow's decompression-bomb warning is an error here; the official code does not try again.
    """
    for pause in RETRY_PAUSES:
        try:
            return _decode_once(path)
        except OSError as error:
            if error.errno not in PASSING_ERRORS:
                raise
            logger.warning("%s: %s; tried again in %g s.", path, error, pause)
            time.sleep(pause)
    return _decode_once(path)


def _decode_once(path: str | Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(f"{path} is a pipe, a device or a folder, not a file")
        with open(path, "rb") as file, Image.open(file) as image:
            return image.convert("RGB")


class PathList(Sequence[str]):
    """A list of strings kept as one block of bytes: a million paths are sent to a worker in a moment."""

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(item) for item in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

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


class ImageFolder:
    """All pictures below `root`, sorted by path, decoded to RGB on demand.

    root: folder, nested or flat (jpg, jpeg, png, webp, bmp, tif, tiff; hidden names are skipped). list_file: one path a
    line, relative to `root`, optionally followed by a blank or tab and a label, instead of searching. with_classes:
    labels are the first folder below `root` (sorted by name, as torchvision numbers them), or those of the list file.
    max_corrupt: share of files that may be undecodable; each is logged and replaced by the next decodable picture in
    the list (so the replacement is always the same); above it, DataError, with the list written to `report`.
    Raises DataError when root or list file is missing, or holds no picture.
    Source: official `dataset_folder.py: ImageFolder`.
    Departs: the official loader retries other random files for ever and reports nothing.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        list_file: str | Path | None = None,
        with_classes: bool = False,
        max_corrupt: float = 0.001,
        report: str | Path | None = None,
    ) -> None:
        self.root = Path(root)
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        if not self.root.is_dir():
            found = "a file" if self.root.exists() else "nothing"
            raise DataError(
                f"data.root: {self.root} is {found}, expected a folder of pictures ({', '.join(EXTENSIONS)}). "
                "Give an existing folder."
            )
        if list_file is not None:
            paths = self._read_list(Path(list_file), with_classes)
        elif with_classes:
            paths = self._find_with_classes()
        else:
            paths = sorted(find_pictures(self.root))
        if not paths:
            where = f"{list_file}" if list_file is not None else f"{self.root} and the folders below it"
            raise DataError(
                f"data.root: no pictures found in {where}; looked for {', '.join(EXTENSIONS)} (any case). "
                "Give a folder that holds pictures, or a list file."
            )
        self.paths = PathList(paths)
        self.corrupt = CorruptFiles(len(paths), max_corrupt, report)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        kinds = f", {len(self.classes)} classes" if self.classes is not None else ""
        return f"ImageFolder({self.root}, {len(self)} pictures{kinds})"

    def load(self, index: int) -> Sample:
        """Decode picture `index`; an undecodable one is replaced by the next that can be decoded."""
        if not 0 <= index < len(self):
            raise IndexError(f"ImageFolder: picture {index} was asked for, there are {len(self)}.")
        for step in range(min(len(self), MAX_REPLACEMENTS)):
            at = (index + step) % len(self)
            path = str(self.root / self.paths[at])
            try:
                image = decode(path)
            except Exception as error:  # broken input: OSError, SyntaxError, struct.error, ...
                self.corrupt.add(path, f"{type(error).__name__}: {error}".replace("\n", " "))
                continue
            return Sample(image, None if self.labels is None else int(self.labels[at]), path)
        raise DataError(
            f"ImageFolder: none of {min(len(self), MAX_REPLACEMENTS)} pictures from number {index} on can be decoded "
            f"(the first: {self.root / self.paths[index]}). Check {self.root}."
        )

    def _find_with_classes(self) -> list[str]:
        folders = (entry for entry in os.scandir(self.root) if entry.is_dir())
        names = sorted(entry.name for entry in folders if not entry.name.startswith("."))
        if not names:
            raise DataError(
                f"data.root: {self.root} has no folders, but classes were asked for; expected one folder per class. "
                "Sort the pictures into folders, give a list file with labels, or do without classes."
            )
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            found = sorted(os.path.join(name, path) for path in find_pictures(self.root / name))
            if not found:
                logger.warning("%s: class folder %s holds no pictures.", self.root, name)
            paths += found
            labels += [label] * len(found)
        self.classes, self.labels = names, np.asarray(labels, dtype=np.int64)
        return paths

    def _read_list(self, list_file: Path, with_classes: bool) -> list[str]:
        try:
            text = list_file.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise DataError(
                f"data.list_file: {list_file} cannot be read ({error.strerror}); expected a text file with one path "
                "a line."
            ) from error
        paths: list[str] = []
        words: list[str] = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            path, word = split_label(line)
            if with_classes and not word:
                raise DataError(f"{list_file}, line {number}: {line.strip()!r} has no label; expected `path label`.")
            paths.append(path)
            words.append(word)
        if with_classes:
            if all(word.isdigit() for word in words):
                self.labels = np.asarray([int(word) for word in words], dtype=np.int64)
                self.classes = [str(label) for label in range(int(self.labels.max(initial=-1)) + 1)]
            else:
                self.classes = sorted(set(words))
                number_of = {name: label for label, name in enumerate(self.classes)}
                self.labels = np.asarray([number_of[word] for word in words], dtype=np.int64)
        return paths


def split_label(line: str) -> tuple[str, str]:
    """Split `path label` (blank or tab between); a path may hold blanks, and the label may be missing ("")."""
    line = line.strip()
    if "\t" in line:
        path, word = line.rsplit("\t", 1)
        return path.strip(), word.strip()
    head, _, word = line.rpartition(" ")
    if head.lower().rstrip().endswith(EXTENSIONS) and not word.lower().endswith(EXTENSIONS):
        return head.rstrip(), word
    return line, ""


def find_pictures(root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, of all pictures below it; links are followed, loops are not."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)
