# SPDX-License-Identifier: Apache-2.0
"""Data sets, transforms and names of classes from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beitv2_core.errors import ConfigError
from beitv2_seg.config import IGNORED_KEYS, Component, SegmentConfig
from beitv2_seg.data.dataset import check_ade20k, check_files
from beitv2_seg.data.file_samples import FileSamples
from beitv2_seg.paddleseg.components import COMPONENTS, argument_names, build_component, find_component
from beitv2_seg.paddleseg.installed import as_file_samples

#: data sets that make their samples themselves, without files
OWN_DATASETS = COMPONENTS["DATASETS"]


def build_dataset(config: SegmentConfig, where: str) -> Any:
    """The data set of that section, its files checked, in order and read by us.

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
    dataset = build_component(tree, where)
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
    if config.label_map:
        if not isinstance(dataset, FileSamples) or dataset.reduce_zero:
            raise ConfigError(f"label_map: {where} ({spec.type}) numbers its labels itself. Leave label_map out, or "
                              "name the files in a list: type: Dataset.")
        dataset.label_map = config.label_map
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
