# SPDX-License-Identifier: Apache-2.0
"""Data sets, transforms and names of classes from the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from beitv2_core.errors import ConfigError
from beitv2_seg.config import IGNORED_KEYS, Component, SegmentConfig
from beitv2_seg.data.dataset import check_ade20k, check_files
from beitv2_seg.data.file_samples import FileSamples
from beitv2_seg.data.forms import samples_of
from beitv2_seg.paddleseg.components import (
    COMPONENTS,
    argument_names,
    build_component,
    check_arguments,
    find_component,
)
from beitv2_seg.paddleseg.installed import as_file_samples

#: data sets that make their samples themselves, without files
OWN_DATASETS = COMPONENTS["DATASETS"]


def build_dataset(config: SegmentConfig, where: str, run: Optional[Path] = None) -> Any:
    """The data set of that section, its files checked, in order and read by us.

    run: the folder of the run, whose lists are repeated where images are held out.
    Raises ConfigError where its classes or its ignored label are others than the run's, or its labels cannot be mapped.
    """
    spec: Component = getattr(config, where)
    options, num_classes = spec.options(), config.model.num_classes
    if where == "train_dataset" and options.get("mode", "train") != "train":
        raise ConfigError(f"train_dataset.mode: {options['mode']!r}; PaddleSeg gives labels to the transforms only in "
                          "'train'. To train on other images, put them where the data set looks for training ones.")
    if spec.type == "ADE20K":
        check_ade20k(options.get("dataset_root"), options.get("mode", "train"), where)
    tree = with_ignored(spec.model_dump(), where, config.ignored)
    known = argument_names(find_component(spec.type, where))
    if known is not None and "num_classes" in known:
        tree.setdefault("num_classes", num_classes)
    if spec.type == "Dataset":  # a misspelt argument before what follows from it
        arguments = {key: value for key, value in tree.items() if key != "type"}
        check_arguments(find_component(spec.type, where), {"dataset_root": None, **arguments}, where)
    samples = samples_of(config, where, run)
    found = {} if samples is None else {"samples": samples, "dataset_root": str(samples.root)}
    dataset = build_component({key: value for key, value in tree.items() if key not in found}, where, **found)
    classes = getattr(dataset, "num_classes", num_classes)
    if classes != num_classes:
        raise ConfigError(f"model.num_classes: {num_classes}, but {where} ({spec.type}) has {classes} classes. Set "
                          f"model.num_classes to {classes}.")
    ignored = getattr(dataset, "ignore_index", config.ignored)
    if ignored != config.ignored:
        raise ConfigError(f"ignore_index: {config.ignored}, but {where} ({spec.type}) marks pixels without a class by "
                          f"{ignored}. Set ignore_index to {ignored}, or leave it out.")
    if not isinstance(dataset, (FileSamples, *OWN_DATASETS)):
        dataset = as_file_samples(dataset)
    if isinstance(dataset, FileSamples):
        dataset.max_pixels = config.run.max_pixels
    if config.label_map and samples is None:
        if not isinstance(dataset, FileSamples) or dataset.reduce_zero:
            raise ConfigError(f"label_map: {where} ({spec.type}) numbers its labels itself. Leave label_map out, or "
                              "name the files in a list: type: Dataset.")
        dataset.label_map, dataset.unlisted = config.label_map, config.unlisted_labels
    check_files(dataset, where)
    return dataset


def with_ignored(spec: Mapping[str, Any], where: str, ignored: int) -> dict[str, Any]:
    """A component's section with the run's ignored label at every part of it that takes one and sets none."""
    filled = {key: [with_ignored(item, f"{where}.{key}[{i}]", ignored) if isinstance(item, Mapping) and "type" in item
                    else item for i, item in enumerate(value)] if isinstance(value, (list, tuple)) else
              with_ignored(value, f"{where}.{key}", ignored) if isinstance(value, Mapping) and "type" in value else
              value for key, value in spec.items()}
    known = argument_names(find_component(str(filled["type"]), where)) or {}
    return {**filled, **{key: ignored for key in IGNORED_KEYS if key in known and key not in filled}}


def with_found_classes(config: SegmentConfig, dataset: Any) -> SegmentConfig:
    """The settings with the names of classes that training's data set was found to have, where they have none."""
    samples = getattr(dataset, "samples", None)
    return with_known_classes(config, None if samples is None else samples.classes)


def with_known_classes(config: SegmentConfig, names: Optional[Sequence[str]]) -> SegmentConfig:
    """The settings with these names of classes, where they have none and there are as many."""
    if config.classes is not None or names is None or len(names) != config.model.num_classes:
        return config
    return config.model_copy(update={"classes": list(names)})


def class_names(config: SegmentConfig) -> list[str]:
    """Names of the classes: those of `classes`, the data set's own, ADE20K's, or numbers."""
    spec, count = config.val_dataset, config.model.num_classes
    if config.classes is not None:
        return list(config.classes)
    if spec.type == "ADE20K":
        return (Path(__file__).parents[1] / "ade20k_classes.txt").read_text(encoding="utf-8").splitlines()[:count]
    names = getattr(find_component(spec.type, "val_dataset"), "CLASSES", None)
    return list(names) if names is not None and len(names) == count else [str(i) for i in range(count)]


def image_transforms(config: SegmentConfig) -> list[Any]:
    """The transforms an image goes through before it is predicted: those of val_dataset."""
    steps: list[Mapping[str, Any]] = config.val_dataset.options().get("transforms", [])
    return [build_component(with_ignored(step, f"val_dataset.transforms[{i}]", config.ignored),
                            f"val_dataset.transforms[{i}]") for i, step in enumerate(steps)]
