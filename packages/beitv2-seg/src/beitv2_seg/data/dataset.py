# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg data sets in core's loader: each sample's draws belong to it, broken files are named and replaced."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beitv2_core.data.rng import SampleRng
from beitv2_core.data.sources.corrupt import CorruptFiles
from beitv2_core.data.sources.folder import MAX_REPLACEMENTS
from beitv2_core.data.sources.image_file import decode
from beitv2_core.errors import BEiTError, DataError
from beitv2_seg.data.file_samples import BrokenFile, FileSamples
from beitv2_seg.data.label_files import label_counts

#: mode -> folder of ADE20K's release
ADE20K_PARTS = {"train": "training", "val": "validation"}


class SegBatch(NamedTuple):
    """images: float32 (B, 3, H, W), normalised; labels: int64 (B, H, W); paths: B strings; counts: int64
    (B, classes + 1), pixels of every class and, last, ignored ones."""

    images: np.ndarray
    labels: np.ndarray
    paths: list[str]
    counts: np.ndarray


class TrainSamples:
    """A PaddleSeg training data set as core's loader wants it: both the data set and its transform.

    Before a sample is made, the global generators of Python and numpy, from which PaddleSeg's transforms draw, start
    from a seed of (run, epoch, sample): samples do not depend on workers, batches or resumes.  A sample whose files
    cannot be decoded is replaced by the next one; more than `max_corrupt` of them raise DataError, with the list in
    `report`.  repeats: times each sample is used in an epoch.
    ignored: label of pixels without a class.
    Raises DataError for a label outside the classes and for an image and label of different size.
    """

    def __init__(self, dataset: Any, *, num_classes: int, ignored: int = 255, max_corrupt: float = 0.0,
                 report: Path | None = None, repeats: int = 1):
        self.dataset, self.num_classes, self.ignored, self.repeats = dataset, num_classes, ignored, repeats
        self.corrupt = CorruptFiles(len(dataset), max_corrupt, report, key="run.max_corrupt")
        self.classes = None

    def __len__(self) -> int:
        return len(self.dataset) * self.repeats

    labels = None  # of whole images

    def fingerprint(self) -> str:
        """SHA-256 of the names of all files in order, below the folder that holds them all."""
        pairs = getattr(self.dataset, "file_list", [])
        paths = [os.path.abspath(path) for pair in pairs for path in pair if path is not None]
        folder = os.path.commonpath(paths) if paths else ""
        return hashlib.sha256("\0".join(path[len(folder):] for path in paths).encode("utf-8", "replace")).hexdigest()

    def content(self, index: int) -> bytes:
        """The bytes of a sample's files; raises OSError where they cannot be read."""
        pairs = getattr(self.dataset, "file_list", None)
        if pairs is None:
            return b""
        drawn = getattr(self.dataset, "drawn", None)
        image = pairs[index % len(self.dataset)][0]
        return b"".join(Path(path).read_bytes() for path in _files_of(self.dataset, index % len(self.dataset))) + (
            b"" if drawn is None else drawn.content(image))

    def load(self, index: int) -> Any:
        """The number itself: decoding and augmenting are one call, below."""
        return index

    def __call__(self, index: int, rng: SampleRng) -> dict[str, Any]:
        """{"images", "labels", "paths", "counts"} of one sample."""
        seed = rng.python.getrandbits(32)
        for step in range(min(len(self.dataset), MAX_REPLACEMENTS)):
            at = (index + step) % len(self.dataset)
            random.seed(seed)
            np.random.seed(seed)
            data = self._read(at)
            if data is not None:
                label = np.asarray(data["label"])
                counts = self._counted(label, at)
                return {"images": np.asarray(data["img"], dtype=np.float32), "labels": label.astype(np.int64),
                        "paths": path_of(self.dataset, at), "counts": counts}
        raise DataError(f"none of {min(len(self.dataset), MAX_REPLACEMENTS)} samples from "
                        f"{path_of(self.dataset, index % len(self.dataset))} on can be decoded. Check the data set.")

    def _counted(self, label: np.ndarray, at: int) -> np.ndarray:
        """`label_counts` of a crop; an error lists the labels of the whole label map."""
        path = label_path_of(self.dataset, at)
        try:
            return label_counts(label, self.num_classes, self.ignored, path)
        except DataError:
            if isinstance(self.dataset, FileSamples):
                label_counts(self.dataset.label(at), self.num_classes, self.ignored, path)
            raise

    def batch(self, stacked: dict[str, Any]) -> SegBatch:
        """The samples side by side."""
        return SegBatch(**stacked)

    def _read(self, at: int) -> Mapping[str, Any] | None:
        """Sample `at`; None, and noted, where one of its files cannot be decoded."""
        try:
            return self.dataset[at]
        except BrokenFile as error:
            self.corrupt.add(error.file, error.reason)
            return None
        except BEiTError as error:
            raise named(error, self.dataset, at) from error
        except Exception as error:  # broken files raise anything; so do wrong settings, which must not be ignored
            broken = undecodable(self.dataset, at)
            if broken is None:
                raise DataError(f"{path_of(self.dataset, at)}: its files can be decoded, but the transforms fail "
                                f"({type(error).__name__}: {error}). Check image, label and transforms.") from error
            self.corrupt.add(*broken)
            return None


def path_of(dataset: Any, index: int) -> str:
    """The image's file, or the data set's name and the sample's number."""
    files = getattr(dataset, "file_list", None)
    return str(files[index][0]) if files is not None else f"{type(dataset).__name__}/{index:06d}"


def label_path_of(dataset: Any, index: int) -> str:
    """The label map's file where the data set names one, else `path_of`."""
    files = getattr(dataset, "file_list", None)
    label = files[index][1] if files is not None and len(files[index]) > 1 else None
    if label is None:
        return path_of(dataset, index)
    return f"{label}: {path_of(dataset, index)}" if getattr(dataset, "drawn", None) is not None else str(label)


def _files_of(dataset: Any, index: int) -> list[str]:
    """The files of a sample alone: annotations of all are none."""
    files = getattr(dataset, "file_list", {index: ()})[index]
    own = files[:1] if getattr(dataset, "drawn", None) is not None else files
    return [path for path in own if path is not None]


def named(error: BEiTError, dataset: Any, index: int) -> DataError:
    """The error as a DataError that begins with the sample's file; one that names a file already stays."""
    files = [str(path) for path in getattr(dataset, "file_list", {index: ()})[index]]
    text = str(error)
    return DataError(text if text.startswith(tuple(files)) and files else f"{path_of(dataset, index)}: {text}")


def undecodable(dataset: Any, index: int) -> tuple[str, str] | None:
    """(file, reason) of a sample's first file that cannot be decoded; None where all can."""
    for path in _files_of(dataset, index):
        try:
            decode(path)
        except Exception as error:  # decoders raise anything on broken input
            return str(path), f"{type(error).__name__}: {error}".replace("\n", " ")
    return None


def check_ade20k(root: str | None, mode: str, where: str) -> None:
    """Raise DataError, with the layout expected and what was found, unless `root` holds that part of ADE20K.

    PaddleSeg's ADE20K downloads where the folder is missing; we never do so on our own.
    """
    if mode not in ADE20K_PARTS:
        raise DataError(f"{where}.mode: {mode!r}; ADE20K has {' and '.join(ADE20K_PARTS)}.")
    part = ADE20K_PARTS[mode]
    folders = [Path(root or ".") / kind / part for kind in ("images", "annotations")]
    counts = [len(list(folder.glob(f"*.{end}"))) if folder.is_dir() else None
              for folder, end in zip(folders, ("jpg", "png"))]
    if root is None or None in counts or not counts[0]:
        found = "nothing (not set)" if root is None else "no such folder" if not Path(root).is_dir() else "; ".join(
            f"{folder.parent.name}/{part}: {'missing' if count is None else f'{count} files'}"
            for folder, count in zip(folders, counts))
        raise DataError(
            f"{where}.dataset_root: {root}: expected ADE20K as released (ADEChallengeData2016): images/{part}/*.jpg "
            f"and annotations/{part}/*.png of the same names; found {found}. Give its folder: --opts "
            f"{where}.dataset_root=FOLDER, or fetch http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip.")


def check_files(dataset: Any, where: str) -> None:
    """Raise DataError where labels are missing; put the samples into the order of their names.

    PaddleSeg lists folders in the order of the file system, which differs from machine to machine.
    """
    files = getattr(dataset, "file_list", None)
    if files is None:
        return
    files.sort(key=lambda pair: str(pair[0]))
    for what, missing in (("image", [pair[0] for pair in files if not os.path.isfile(pair[0])]),
                          ("label", [pair[1] for pair in files if pair[1] is None or not os.path.isfile(pair[1])])):
        if missing:
            raise DataError(f"{where}: {len(missing)} of {len(files)} samples have no {what} file; the first: "
                            f"{missing[0]}. Complete the data set (was it unpacked to the end?).")
