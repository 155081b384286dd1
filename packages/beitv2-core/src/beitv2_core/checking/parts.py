# SPDX-License-Identifier: Apache-2.0
"""What is checked: the splits of a data set, and the commands that would read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

import numpy as np

#: roles of a split: what is learnt from, what is measured on, and what is neither
TRAIN, TEST, OTHER = "train", "test", "other"
ENTRY_POINTS = "beitv2.checks"


class Part(NamedTuple):
    """One split.

    name, role: what it is called, and one of the roles above.  root: where it comes from, as the user named it.
    looks: `Looks`, or a class like it; None for drawn images.  images: their number.  classes, labels: names, and the
    class of every image (int64), None without; pixel_classes: names of the classes of pixels, where every pixel has a
    label; by_labels: nobody says how many there are, they are the labels that come.  upright: EXIF turns are applied;
    turn_setting: the setting that applies them, "": there is none to set.
    line: image -> its line in a list of images; list_setting: how such a list is given, with LIST for its path, "":
    there is no way.  image_size: (height, width) that images are cut to, None: not known.  size_setting: its name.
    left_out: files of kinds that are not read.  remedies: kind of a fault of the labels -> (what it is, what to do).
    """

    name: str
    role: str
    root: str
    looks: Any
    images: int
    classes: Optional[Sequence[str]] = None
    labels: Optional[np.ndarray] = None
    pixel_classes: Optional[Sequence[str]] = None
    by_labels: bool = False
    upright: bool = False
    turn_setting: str = ""
    line: Optional[Callable[[int], str]] = None
    list_setting: str = ""
    image_size: Optional[tuple[int, int]] = None
    size_setting: str = "data.image_size"
    left_out: Sequence[str] = ()
    remedies: Mapping[str, tuple[str, str]] = MappingProxyType({})


class Use(NamedTuple):
    """A command that would read the splits named in `reads`.

    command: as it is typed.  classes: None: it reads none; 0: as many as labels of pixels have.  batch: images of one
    update; None: not known.  total_steps, epochs: length of the run, None: not known.  repeats: times an image is used
    in an epoch.  batch_setting: the setting that changes the batch, "": the batch is no setting yet.
    """

    command: str
    reads: tuple[str, ...]
    classes: Optional[int] = None
    batch: Optional[int] = None
    total_steps: Optional[int] = None
    epochs: Optional[int] = None
    repeats: int = 1
    batch_setting: str = "train.batch_size"


class Finding(NamedTuple):
    """Something that was found.

    kind: a fixed word.  fault: whether something is to be done before training; else it is good to know.  part: the
    split, or both ("train, test").  number: of files or classes.  what: the sentence; do: the remedy.  files: (split,
    number of the image) of every file; words: what is said about each of them.  of_classes: it matters to commands that
    read classes only.
    """

    kind: str
    fault: bool
    part: str
    number: int
    what: str
    do: str
    files: Sequence[tuple[str, int]] = ()
    words: Sequence[str] = ()
    of_classes: bool = False


class Plan(NamedTuple):
    """Everything that is to be checked.

    data: what the user named.  findings: what was found before any image was opened.
    """

    data: str
    parts: Sequence[Part]
    uses: Sequence[Use]
    findings: Sequence[Finding] = ()


class Asked(NamedTuple):
    """What a user gave that is no file of settings.

    path, test: folder, list or tar files, and those of the test images.  overrides: settings of `data`, `key=value`.
    batch: images of one update.  quick: read headers only.
    """

    path: str
    test: Optional[str] = None
    overrides: Sequence[str] = ()
    batch: int = 64
    quick: bool = False


class Check(NamedTuple):
    """What a package offers by an entry point `beitv2.checks` of the name of a kind of settings.

    of_settings: (settings, the file they come from, quick) -> Plan.  of_path: what it recognises of what a user named,
    None: not its own.  labelled: commands that read images with a class each, to be listed: texts with {train} and
    {test}.
    """

    of_settings: Callable[[Any, str, bool], Plan]
    of_path: Optional[Callable[[Asked], Optional[Plan]]] = None
    labelled: tuple[str, ...] = ()
