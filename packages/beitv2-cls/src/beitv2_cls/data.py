# SPDX-License-Identifier: Apache-2.0
"""Labelled images of a run: training images, validation images, and the numbers of the classes.

Training images decide the classes; everything measured later is numbered by them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beitv2_cls.classes import few
from beitv2_cls.config import LabelledRunConfig
from beitv2_core.assembly import build_dataset
from beitv2_core.assembly.data import reading_of
from beitv2_core.assembly.held_out import named_images
from beitv2_core.config.sections import DataConfig
from beitv2_core.data import Reading
from beitv2_core.datasets import DRAWN, SOURCES
from beitv2_core.errors import ConfigError, DataError

log = logging.getLogger("beitv2_cls")


def build_data(config: LabelledRunConfig) -> tuple[Any, Any]:
    """Training and validation images with the same classes; validation is None where none was given.

    Raises ConfigError for validation settings that are not read, DataError for a single class, labels out of range,
    training classes without an image, and validation images of a class that is not trained.
    """
    _refuse_unread(config)
    train_set = training_set(config)
    validation = validation_set(config, train_set.classes)
    if validation is None:
        log.warning("validation.root is not given: accuracy is not measured. Set it to a folder of class folders.")
    return train_set, validation


def _refuse_unread(config: LabelledRunConfig) -> None:
    dataset, check = config.data.dataset, config.validation
    source = SOURCES[dataset]
    usual = type(check).model_fields["size"].default
    if source.split and check.root is not None:
        raise ConfigError(f"validation.root: {check.root} is given, but data.dataset={dataset} is measured on its own "
                          "test images. Leave it out, or train on images of the same classes (data.dataset=folder).")
    if "list_file" not in source.reads and check.list_file is not None:
        raise ConfigError(f"validation.list_file: {check.list_file} is given, but data.dataset={dataset} does not read "
                          "it. Leave it out.")
    if check.list_file is not None and check.root is None:
        raise ConfigError(f"validation.list_file: {check.list_file} is given without the folder its paths are below. "
                          "Add validation.root=FOLDER.")
    if not source.split and check.size != usual:
        log.warning("validation.size: %d is not read: data.dataset is %s, all images of validation.root are measured.",
                    check.size, dataset)


def training_set(config: LabelledRunConfig) -> Any:
    """The labelled images of the settings; their `classes` are the run's."""
    data, asked = config.data, config.model.num_classes
    train_set = build_dataset(data, report=Path(config.output) / "corrupt_files.txt", with_classes=True)
    classes = train_set.classes
    if len(classes) < 2:
        raise DataError(f"{train_set!r}: a single class ({classes[0]!r}); a classifier needs at least two. Give class "
                        "folders below data.root, or a list file with labels.")
    if asked is not None and asked != len(classes):
        raise ConfigError(f"model.num_classes is {asked}, {train_set!r} has {len(classes)}. Set "
                          f"model.num_classes={len(classes)} or give other data.")
    empty = classes_without_images(train_set)
    if empty:
        from_1 = data.list_file is not None and empty == ["0"] == classes[:1]
        advice = "The labels count from 1: number the classes from 0, or write names" if from_1 else \
            "Add some, or remove the class"
        raise DataError(f"{data.list_file or repr(train_set)}: no image of class {', '.join(empty[:5])} "
                        f"({len(empty)} in all). {advice}.")
    return train_set


def validation_set(config: LabelledRunConfig, classes: Sequence[str]) -> Any:
    """The validation images of the settings, numbered by `classes`; None where there are none.

    Training images are not looked at.  Raises DataError for images of other classes.
    """
    data, check = config.data, config.validation
    if SOURCES[data.dataset].split:
        return _test_split(data, check.size, classes)
    if check.root is None:
        return None
    changed = data.model_copy(update={"root": check.root, "list_file": check.list_file})
    return _labelled(changed, classes, "validation.root", "validation.list_file",
                     Path(config.output) / "corrupt_validation_files.txt")


def asked_set(config: LabelledRunConfig | None, data: str, list_file: Path | None, classes: Sequence[str], *,
              image_size: Any, named: bool = True) -> Any:
    """The images `beitv2 evaluate` is given: a folder of class folders, a list file below it, tar files, drawn images.

    config: of the run that is measured, whose images are read in the same way; None for a lone file.  named: False
    where the classes have numbers only: a folder of exactly as many class folders then names them, in sorted order.
    """
    trained_on = None if config is None else config.data
    if data in DRAWN:
        if list_file is not None:
            raise ConfigError(f"--list-file {list_file}: {data} are drawn, no list names them. Leave it out.")
        return _test_split(drawn_like(data, trained_on, image_size), 1000 if config is None else config.validation.size,
                           classes)
    settings = folder_settings(data, list_file, image_size, trained_on)
    if not named and list_file is None and SOURCES[settings.dataset].opens().class_folders:
        folders = build_dataset(settings, with_classes=True, setting="--data")
        if len(folders.classes) == len(classes):
            log.info("--data %s: the model's classes have no names; its %d folders are taken for them in sorted order "
                     "(%s), as ImageNet's are.", data, len(classes), few(folders.classes))
            return folders
    return _labelled(settings, classes, "--data", "--list-file")


def drawn_like(name: str, trained_on: DataConfig | None, image_size: Any) -> DataConfig:
    """Settings of drawn images: those a run was trained with, or, for a run on others, of its image size."""
    if trained_on is not None and trained_on.dataset == name:
        return trained_on
    return DataConfig(dataset=name, size=1, image_size=image_size)


def folder_settings(root: str, list_file: Path | None, image_size: Any, trained_on: DataConfig | None) -> DataConfig:
    """Settings of a folder, or of tar files, that are read as a run's training images were."""
    found = named_images(root, image_size, Reading() if trained_on is None else reading_of(trained_on))
    source = SOURCES[found.dataset]
    if list_file is not None and "list_file" not in source.reads:
        raise ConfigError(f"{list_file}: no list names a part of {source.noun} ({root}), read whole. Leave it out.")
    return found if list_file is None else found.model_copy(update={"list_file": str(list_file)})


def neighbour_sets(config: Any, data: str, test: str | None, list_file: Path | None, test_list_file: Path | None, *,
                   image_size: Any, sizes: tuple[int, int]) -> tuple[Any, Any]:
    """Labelled images that vote, and others of the same classes to classify, of `beitv2 knn`.

    config: settings of the backbone's run, or None; sizes: numbers of both, of drawn ones.
    Raises ConfigError without images to classify, DataError for other classes and for images that are in both sets.
    """
    if data in DRAWN:
        if (test or data) != data or list_file is not None or test_list_file is not None:
            raise ConfigError(f"--data {data}: its own test images are classified. Leave --test, --list-file and "
                              "--test-list-file out.")
        scenes = drawn_like(data, None if config is None else config.data, image_size)
        return build_dataset(scenes, split="train", size=sizes[0]), build_dataset(scenes, split="test", size=sizes[1])
    if test is None:
        raise ConfigError("--test: required with --data FOLDER. Give the folder of the images to classify.")
    trained_on = None if config is None else config.data
    train_set = build_dataset(folder_settings(data, list_file, image_size, trained_on), with_classes=True,
                              setting="--data", list_setting="--list-file")
    test_set = _labelled(folder_settings(test, test_list_file, image_size, trained_on), train_set.classes, "--test",
                         "--test-list-file")
    refuse_shared(train_set, test_set, f"--data {data} and --test {test}: an image is its own nearest neighbour")
    return train_set, test_set


def refuse_shared(one: Any, other: Any, what: str) -> None:
    """DataError where two data sets share an image file; `what`: the two settings, and what must not be measured."""
    first, second = one.files_read(), other.files_read()
    shared = first & second
    if shared:
        raise DataError(f"{what}: {len(shared)} of {len(second)} files are in both (the first: {min(shared)}). "
                        "Accuracy on training images says nothing about other images. Give other images.")


def warn_shared(train_set: Any, validation: Any) -> None:
    """Warn of validation images that are training images too: their accuracy says little about other images."""
    tested = validation.files_read()
    shared = train_set.files_read() & tested
    if shared:
        log.warning("validation.root: %d of %d files are training images too (the first: %s): the accuracy measured "
                    "there says little about other images. Give other images.", len(shared), len(tested), min(shared))


def even_shares(available: np.ndarray, count: int) -> np.ndarray:
    """How many images of each class make `count` in all, none differing by more than one where there are enough."""
    shares = np.zeros(len(available), dtype=np.int64)
    left = min(int(count), int(available.sum()))
    while left:
        open_classes = np.flatnonzero(shares < available)
        each = max(1, left // len(open_classes))
        for number in open_classes[:left]:
            more = min(each, int(available[number] - shares[number]), left)
            shares[number] += more
            left -= more
    return shares


def classes_without_images(dataset: Any) -> list[str]:
    """Names of the classes that no image of a labelled data set belongs to; none where images are drawn."""
    if not hasattr(dataset, "labels"):
        return []
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return [dataset.classes[i] for i in np.flatnonzero(counts == 0)]


def _labelled(data: DataConfig, classes: Sequence[str], setting: str, list_setting: str,
              report: Path | None = None) -> Any:
    found = build_dataset(data, report=report, classes=classes, setting=setting, list_setting=list_setting)
    unseen = classes_without_images(found)
    if unseen:
        log.warning("%r: no image of %d class(es) (%s): their accuracy is not measured.", found, len(unseen),
                    few(unseen))
    return found


def _test_split(data: DataConfig, size: int, classes: Sequence[str]) -> Any:
    test = build_dataset(data, split="test", size=size)
    if list(classes) != test.classes:
        raise DataError(f"{data.dataset}: their classes are {few(test.classes, 10)}, the model's are {few(classes)}. "
                        "Give images of the model's classes.")
    return test
