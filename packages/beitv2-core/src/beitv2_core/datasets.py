# SPDX-License-Identifier: Apache-2.0
"""The data sets that `data.dataset` names. What settings and commands know of one, they take from this table.

A class is imported when its images are asked for: reading settings costs neither numpy nor Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from .data.sources.sample import ImageSource


class Source(NamedTuple):
    """One data set.

    opens: the class (`data.sources.sample.ImageSource`) behind it.  noun: what messages call its images.  help: what
    `data.dataset` says of it.  reads: the settings of `data` that it reads and not every data set does; the others are
    refused.  required: (a setting without which it is nothing, what that is).  root: what `data.root` is there; "": it
    is drawn, and named on command lines by its own name.  many: `data.root` may be a list.  split: it has test images
    of its own, and as many as asked for; others are read whole.
    """

    opens: Callable[[], type[ImageSource]]
    noun: str
    help: str
    reads: tuple[str, ...]
    required: tuple[str, str]
    root: str = ""
    many: bool = False
    split: bool = False


def _folder() -> type[ImageSource]:
    from .data.sources.folder import ImageFolder

    return ImageFolder


def _shards() -> type[ImageSource]:
    from .data.sources.shards import ShardSet

    return ShardSet


def _digit_scenes() -> type[ImageSource]:
    from .data.sources.digit_scenes import DigitScenes

    return DigitScenes


_FILES = ("held_out", "max_corrupt", "draft", "exif_orientation", "max_pixels")
#: what `data.dataset` may say
SOURCES = {
    "folder": Source(
        _folder, "a folder of images", "images below data.root", ("list_file", *_FILES),
        ("root", "the folder with the training images"), root="folder of images, nested or flat"),
    "shards": Source(
        _shards, "tar files", "images in tar files, WebDataset's layout", ("shard_window", *_FILES),
        ("root", "the tar files with the training images: a folder, a pattern or a list"),
        root="folder of .tar files, a pattern such as train-{000..146}.tar, or a list of these", many=True),
    "digit_scenes": Source(
        _digit_scenes, "drawn images", "drawn on the fly, no files",
        ("size", "scene_size", "scene_digits", "scene_seed"), ("size", "the number of images to draw"), split=True),
}
#: those without files, which a command line names by themselves
DRAWN = tuple(name for name, source in SOURCES.items() if not source.root)
