# SPDX-License-Identifier: Apache-2.0
"""Images to measure on: never those a run was trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..config.sections import DataConfig
from ..data import Reading
from ..datasets import DRAWN, SOURCES
from ..errors import ConfigError, DataError
from .data import build_dataset, reading_of
from .restore import checkpoint_folder, read_config


def reading_of_run(source: str, *, max_pixels: Optional[int] = None) -> Reading:
    """How the run of a folder or checkpoint reads image files; of a lone file, as the official loader.

    max_pixels: another limit than the run's.
    """
    data = data_of_run(source)
    reading = Reading() if data is None else reading_of(data)
    return reading if max_pixels is None else reading._replace(max_pixels=max_pixels)


def allow_pixels(datasets: Sequence[Any], max_pixels: Optional[int]) -> None:
    """Let image files of a run's data sets have more pixels (or fewer) than its settings say; None leaves them."""
    for dataset in datasets:
        if max_pixels is not None and hasattr(dataset, "reading"):
            dataset.reading = dataset.reading._replace(max_pixels=max_pixels)


def data_of_run(source: str) -> Optional[DataConfig]:
    """The data settings of a run folder or checkpoint; None for a lone weights file and for runs that have none."""
    if not Path(source).exists() or checkpoint_folder(Path(source)) is None:
        return None
    data = getattr(read_config(source), "data", None)
    return data if isinstance(data, DataConfig) else None


def held_out(named: Optional[str], trained_on: Sequence[Optional[DataConfig]], *, run: str, image_size: Any, size: int,
             reading: Reading, option: str = "--data", labelled: bool = False,
             classes: Optional[Sequence[str]] = None) -> Any:
    """The test images that are named, or the test split of the drawn images a run was trained on.

    named: a folder of images, or of class folders (then they have labels), tar files, or drawn images by their name;
    None: of the run, or the images that it left out (`data.held_out`).  trained_on: data settings of the runs that are
    measured; size: of drawn images; labelled: with labels where they are class folders; classes: the names that labels
    are numbers of.
    Raises ConfigError where nothing is named for runs on files that left none out, and for images that one of the runs
    was trained on.
    """
    if named is None:
        known = [data for data in trained_on if data is not None]
        if not known:
            raise ConfigError(f"{run}: no settings that name its images. Add {option} FOLDER or {option} "
                              f"{' or '.join(DRAWN)}.")
        if SOURCES[known[0].dataset].split:
            return build_dataset(known[0], split="test", size=size)
        if known[0].held_out is None:
            raise ConfigError(f"{run}: was trained on the images of data.root={known[0].root}; it is measured on "
                              f"others. Add {option} FOLDER with test or validation images, or train with "
                              "data.held_out.")
        return _left_out_by_all(known, run, option, labelled=labelled, classes=classes)
    if named in DRAWN:
        drawn = DataConfig(dataset=named, size=size, image_size=image_size)
        return build_dataset(drawn, split="test", size=size)
    for data in trained_on:
        refuse_trained_on(named, data, option)
    dataset = named_images(named, image_size, reading)
    labelled = classes is not None or (labelled and has_classes(dataset))
    return build_dataset(dataset, with_classes=labelled, classes=classes, setting=option)


def _left_out_by_all(trained_on: Sequence[DataConfig], run: str, option: str, *, labelled: bool,
                     classes: Optional[Sequence[str]]) -> Any:
    """The images that the first settings hold out; ConfigError where a run of the others was trained on some."""
    first = trained_on[0]
    labelled = classes is not None or (labelled and has_classes(first))
    found = build_dataset(first, split="test", with_classes=labelled, classes=classes)
    for data in trained_on[1:]:
        same = all(getattr(data, key) == getattr(first, key) for key in ("dataset", "root", "list_file", "held_out"))
        if not same and data.root and build_dataset(data).files_read() & found.files_read():
            raise ConfigError(f"{run}: left {first.held_out} images out (data.held_out), but another run that is "
                              "measured with it was trained on some of them. Train both with the same data.root and "
                              f"data.held_out, or add {option} FOLDER with test images.")
    return found


def has_classes(data: DataConfig) -> bool:
    """Whether the images are labelled: drawn ones, and those in class folders."""
    return SOURCES[data.dataset].opens().labelled(data)


def named_images(named: str, image_size: Any, reading: Reading) -> DataConfig:
    """Settings of the images named on the command line: a folder, or what another data set recognises."""
    path = Path(named)
    dataset = next((name for name, source in SOURCES.items() if source.opens().recognises(path)), "folder")
    return DataConfig(dataset=dataset, root=named, image_size=image_size,
                      exif_orientation=reading.upright, max_pixels=reading.max_pixels)


def refuse_trained_on(named: str, data: Optional[DataConfig], option: str) -> None:
    """Raise ConfigError where some of the named images are among those of the settings a run was trained with."""
    if data is None or data.dataset in DRAWN or not data.root:
        return
    mine, root = os.path.realpath(named), os.path.realpath(str(data.root))
    whole = SOURCES[data.dataset].opens().takes_all(data)
    inside = whole and ((root + os.sep).startswith(mine + os.sep) or (mine + os.sep).startswith(root + os.sep))
    shared = set() if inside else _files(named_images(named, data.image_size, reading_of(data))) & _files(data)
    if inside or shared:
        first = f" (the first of {len(shared)}: {min(shared)})" if shared else ""
        raise ConfigError(f"{option} {named}: the run was trained on {data.list_file or data.root}, these images are "
                          f"among them{first}; measured there is what was learnt by heart. Give test or validation "
                          "images.")


def _files(data: DataConfig) -> set[str]:
    """The files of the settings, by where they lie; those that are there no more left out."""
    try:
        return SOURCES[data.dataset].opens().files_of(data)
    except DataError:  # moved since: nothing to compare with
        return set()
