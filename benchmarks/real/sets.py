# SPDX-License-Identifier: Apache-2.0
"""The three sets of real images: where they lie below a folder, and the archives that they are unpacked from."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

from beitv2_core.errors import DataError


class RealSet(NamedTuple):
    """One set.

    folders: its place below DATA, the first that is there counts.  archive: unpacks into that folder, or into the one
    above where it holds the folder itself (`wrapped`).  train, test: folders of images below it.  few_labels: 5 % of
    the labels, few_steps: steps with them; 0: its images have no labels, but label maps.
    """

    folders: tuple[str, ...]
    archive: str
    wrapped: bool
    train: str
    test: str
    few_labels: int = 0
    few_steps: int = 0
    images: int = 1000


SETS = {
    "cifar10": RealSet(("cifar10",), "cifar10_jpg.tar.gz", False, "train", "test", 2500, 600, 2000),
    "tiny_imagenet20": RealSet(("tiny_imagenet_20", "tiny/tiny_imagenet_20"), "tiny_imagenet_20.tar.gz", True, "train",
                               "val", 500, 300),
    "camvid": RealSet(("camvid_jpg", "camvid/camvid_jpg"), "camvid_jpg.tar", True, "images/train", "images/test",
                      images=200),
}


def find(name: str, data: Path, unpacked: Path, *, dry: bool = False) -> Path:
    """The folder of a set below `data`, or unpacked from its archive there into `unpacked`.

    dry: nothing is unpacked, the folder that would be made is given.  Raises DataError where neither is there.
    """
    one = SETS[name]
    places = [data / folder for folder in one.folders] + [unpacked / one.folders[0]]
    found = next((place for place in places if (place / one.train).is_dir() and (place / one.test).is_dir()), None)
    if found is not None:
        return found
    archive = data / one.archive
    if not archive.is_file():
        raise DataError(f"{name}: neither {data / one.folders[0]} with {one.train} and {one.test} in it nor {archive} "
                        "is there. docs/small-data.md says how to get it; or leave the set out (make: SETS, by hand: "
                        "--sets).")
    if not dry:
        unpack(archive, places[-1], wrapped=one.wrapped)
        if not (places[-1] / one.train).is_dir():
            raise DataError(f"{archive}: {one.train} is not in it. docs/small-data.md says how to get the set.")
    return places[-1]


def unpack(archive: Path, folder: Path, *, wrapped: bool) -> None:
    """Unpack a tar archive so that `folder` is whole or absent; wrapped: the archive holds a folder of that name.

    Raises DataError for an archive that is broken, or has anything but files and folders of its own inside.
    """
    beside = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    beside.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(beside, filter="data")
            else:  # Python before 3.9.17, 3.10.12 and 3.11.4
                members = [_checked(member) for member in tar]
                tar.extractall(beside, members)  # noqa: S202 (checked)
        (beside / folder.name if wrapped else beside).rename(folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked into {folder}: {error}. Fetch it again, or unpack it by "
                        "hand.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _checked(member: tarfile.TarInfo) -> tarfile.TarInfo:
    path = Path(member.name)
    if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(f"{member.name} is no file or folder inside of it")
    return member
