# SPDX-License-Identifier: Apache-2.0
"""The splits that core's own commands would read: of settings, and of a folder, a list or tar files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from .. import _entry_points
from ..config import PretrainConfig, TokenizerConfig, TwoStagesConfig, config_kinds, explain_config, parse_config
from ..config.load import merge_overrides
from ..config.sections import DataConfig, Section, TrainConfig, pair
from ..data import Reading
from ..data.sources.folder import class_folders
from ..data.sources.held_out import keep_part
from ..data.sources.image_file import FOREIGN_EXTENSIONS, readable_extensions
from ..data.sources.lists import is_list, read_labelled
from ..data.sources.sample import Asked as Wanted
from ..data.sources.tar_index import read_index
from ..datasets import DRAWN, SOURCES
from ..errors import ConfigError, DataError
from ..files.cache import cache_folder
from .look import Looks
from .parts import ENTRY_POINTS, OTHER, TEST, TRAIN, Asked, Check, Part, Plan, Use

#: names of folders that hold one split each
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "training"), ("test", "val", "valid", "validation")
#: the size that settings need; nothing here cuts images to it
ANY_SIZE = 224


class _Data(Section):
    data: DataConfig


def plan_of(path: str, *, test: Optional[str], overrides: Sequence[str], batch: Optional[int], quick: bool) -> Plan:
    """What is to be checked of what the user named: settings of any kind, a folder, a list or tar files.

    Raises ConfigError for wrong settings, DataError where there is nothing to read.
    """
    if Path(path).suffix.lower() in (".yml", ".yaml"):
        if test is not None or batch is not None:
            raise ConfigError(f"{'--test' if test is not None else '--batch-size'}: {path} are settings, which say it "
                              "themselves. Change them by --set.")
        explained = explain_config(path, overrides)  # what is no data, weights for example, may be missing
        for key in explained.missing:
            if key.rpartition(".")[2] in ("root", "dataset_root", "images"):
                raise ConfigError(f"{path}: {key}: required: where the data are. Add --set {key}=FOLDER.")
        settings = explained.settings
        kind = next(name for name, schema in config_kinds().items() if isinstance(settings, schema))
        check: Check = _entry_points.load(ENTRY_POINTS, kind, OURS, f"{path}: data of {kind!r} runs")
        return check.of_settings(settings, path, quick)
    asked = Asked(path, test, tuple(overrides), batch or 64, quick)
    checks = _entry_points.load_all(ENTRY_POINTS, OURS)
    for one in dict.fromkeys(check.of_path for check in checks.values() if check.of_path is not None):
        found = one(asked)
        if found is not None:
            return found
    return _of_images(asked, [command for check in checks.values() for command in check.labelled])


def image_part(data: DataConfig, name: str, role: str, *, labelled: bool, quick: bool, setting: str = "data.root",
               list_setting: str = "data.list_file", set_list: str = "--set data.list_file=LIST",
               split: str = "train", size: Optional[int] = None, cut: bool = True) -> Part:
    """The images of a section `data` as a split to check.

    setting, list_setting: what errors call its folder and list; set_list: how another list is given.  split: of drawn
    images; of files, "test" are those held out.  cut: their size is compared with `data.image_size`.
    Raises DataError where there are none, and for labels that are none.
    """
    source = SOURCES[data.dataset]
    everything = data.model_copy(update={"max_corrupt": 1.0})  # what is missing or broken is counted, not refused
    reading = Reading(upright=data.exif_orientation, max_pixels=data.max_pixels)
    dataset: Any = source.opens().of_settings(everything, Wanted(
        split, size, None, labelled, None, reading, setting, list_setting))
    if data.held_out is not None:
        keep_part(dataset, data.held_out, held_out=split == "test")
    if not hasattr(dataset, "open"):
        return Part(name, role, data.dataset, None, len(dataset), dataset.classes)
    root = str(data.list_file or data.root)

    def line(index: int) -> str:
        label = "" if dataset.labels is None else f"\t{dataset.classes[int(dataset.labels[index])]}"
        return os.path.abspath(dataset.path(index)) + label

    listed = "list_file" in source.reads
    return Part(name, role, root, Looks(dataset, reading, quick), len(dataset), dataset.classes, dataset.labels,
                upright=data.exif_orientation, turn_setting="--set data.exif_orientation=true", line=line,
                list_setting=set_list if listed else "",
                image_size=_pair(data.image_size) if cut else None,
                left_out=_foreign(Path(root)) if listed and data.list_file is None else ())


def use_of(command: str, reads: Sequence[str], train: TrainConfig, optim: Any, classes: Optional[int] = None) -> Use:
    """A training command of these settings, in one process."""
    return Use(command, tuple(reads), classes, train.total_batch or train.batch_size, optim.steps, optim.epochs,
               batch_setting="train.batch_size" if train.total_batch is None else "train.total_batch")


def _stage(config: Any, path: str, quick: bool, stage: str = "") -> tuple[list[Part], Use]:
    """The splits of one stage; stage: "tokenizer." in settings of both."""
    names = {TRAIN: "train", "held_out": "held_out", "labelled": "labelled"}
    data = config.data
    keys = f"{stage}data"
    parts = [image_part(data, names[TRAIN], TRAIN, labelled=False, quick=quick, setting=f"{keys}.root",
                        list_setting=f"{keys}.list_file", set_list=f"--set {keys}.list_file=LIST")]
    if data.held_out is not None:
        parts.append(image_part(data, names["held_out"], TEST, labelled=False, quick=quick, split="test",
                                setting=f"{keys}.root", set_list=""))
    named = config.monitor.labelled if isinstance(config, PretrainConfig) else None
    if named is not None and named not in DRAWN:
        labelled = DataConfig(dataset=_dataset_of(named), root=named, image_size=data.image_size,
                              exif_orientation=data.exif_orientation, max_pixels=data.max_pixels)
        parts.append(image_part(labelled, names["labelled"], OTHER, labelled=True, quick=quick,
                                setting="monitor.labelled", set_list=""))
    command = "beitv2 train-tokenizer" if isinstance(config, TokenizerConfig) else "beitv2 pretrain"
    return parts, use_of(f"{command} {path}", [part.name for part in parts], config.train, config.optim)


def _of_stage(config: Any, path: str, quick: bool) -> Plan:
    parts, use = _stage(config, path, quick)
    return Plan(path, parts, [use])


def _of_two_stages(config: TwoStagesConfig, path: str, quick: bool) -> Plan:
    """Both stages of one file; they mostly read the same images, which are then opened once."""
    first, codes = _stage(config.tokenizer, path, quick, "tokenizer.")
    second, model = _stage(config.pretrain, path, quick, "pretrain.")
    codes = codes._replace(command=f"stage 1 of beitv2 pretrain {path}")
    model = model._replace(command=f"stage 2 of beitv2 pretrain {path}")
    what = [(one.data.dataset, one.data.root, one.data.list_file, one.data.held_out, one.data.exif_orientation,
             one.data.max_pixels, one.data.size, one.data.scene_seed) for one in (config.tokenizer, config.pretrain)]
    if what[0] == what[1]:
        both = "--set tokenizer.data.list_file=LIST pretrain.data.list_file=LIST"
        first[0] = first[0]._replace(list_setting=both if first[0].list_setting else "")
        names = {part.name for part in first}
        return Plan(path, [*first, *(part for part in second if part.name not in names)], [codes, model])
    second = [part._replace(name=f"{part.name}_pretrain") for part in second]
    return Plan(path, [*first, *second], [codes, model._replace(reads=tuple(part.name for part in second))])


OURS = {"tokenizer": Check(_of_stage), "pretrain": Check(_of_stage), "two_stages": Check(_of_two_stages)}


def _of_images(asked: Asked, commands: Sequence[str]) -> Plan:
    """Images with classes or without; commands: what reads images with a class each."""
    train, test = asked.path, asked.test
    if test is None:
        train, test = _split_folders(train)
    first = _named(train, "train", TRAIN, asked, "DATA")
    parts = [first]
    if test is not None:
        parts.append(_named(test, "test", TEST, asked, "--test", known=first.labels is not None))
    settings = "".join(f" {text}" for text in asked.overrides)
    held = asked_data(train, asked.overrides)[0].held_out is not None
    if held and test is None:
        parts.append(_named(train, "test", TEST, asked, "DATA", split="test"))
    ending = f" --set{settings}" if settings else ""
    uses = [Use(f"beitv2 pretrain {train} -o RUN{ending}", ("train",))]
    names = tuple(part.name for part in parts)
    if first.labels is not None:
        uses += [Use(text.format(data=_typed(train), test=_validation(test)) + settings, names,
                     len(first.classes or ()), min(asked.batch, first.images), batch_setting="")
                 for text in commands]
    return Plan(asked.path if asked.test is None else f"{asked.path}, {asked.test}", parts, uses)


def asked_data(path: str, overrides: Sequence[str]) -> tuple[DataConfig, bool]:
    """(settings, whether every image has a class) of a folder, a list or tar files, with overrides of `data`."""
    if is_list(path):
        root = str(Path(path).parent)
        tree: dict[str, Any] = {"dataset": "folder", "root": root, "list_file": path}
        lines = read_labelled(path, root, labels=False, may_miss=1.0, setting="DATA")
        labelled = bool(lines) and all(line.label for line in lines)
    else:
        tree = {"dataset": _dataset_of(path), "root": path}
        labelled = False
    whole: dict[str, Any] = {"data": {"image_size": ANY_SIZE, **tree}}
    merge_overrides(whole, overrides)
    data = parse_config(whole, _Data, source="--set").data
    if not is_list(path):
        labelled = _has_classes(data)
    return data, labelled


def _named(path: str, name: str, role: str, asked: Asked, setting: str, split: str = "train",
           known: bool = False) -> Part:
    """known: the training images have classes; then folders are classes here too, be it one that has images."""
    if not Path(path).exists() and not any(mark in path for mark in "{,"):
        raise DataError(f"{setting}: {path} does not exist. Give a folder of images, a list (.txt, .csv), tar files, "
                        "or a YAML file of settings.")
    data, labelled = asked_data(path, asked.overrides)
    labelled = labelled or (known and os.path.isdir(path) and any(entry.is_dir() for entry in os.scandir(path)))
    key = "data" if role == TRAIN else "validation"
    cut = any(text.startswith("data.image_size=") for text in asked.overrides)
    return image_part(data, name, role, labelled=labelled, quick=asked.quick, setting=setting, list_setting=setting,
                      set_list=("beitv2 pretrain LIST, or " if role == TRAIN else "")
                      + f"--set {key}.root={data.root} {key}.list_file=LIST", split=split, cut=cut)


def _dataset_of(path: str) -> str:
    return next((name for name, source in SOURCES.items() if source.opens().recognises(Path(path))), "folder")


def _has_classes(data: DataConfig) -> bool:
    """Whether a folder is made of class folders, or every image of tar files has a label."""
    if data.dataset == "folder":
        return data.list_file is None and os.path.isdir(str(data.root)) and bool(class_folders(Path(str(data.root))))
    files = SOURCES[data.dataset].opens().files_of(data) if SOURCES[data.dataset].root else ()
    labels = [read_index(Path(file), cache_folder() / "shards").labels for file in files]
    return bool(labels) and bool((np.concatenate(labels) >= 0).any())


def _split_folders(path: str) -> tuple[str, Optional[str]]:
    """(training, test images) of a folder with a folder for each split; (the folder, None) for any other."""
    if not os.path.isdir(path):
        return path, None
    inside = {entry.name.lower(): entry.path for entry in os.scandir(path) if entry.is_dir() and entry.name[0] != "."}
    train = [inside[name] for name in TRAIN_FOLDERS if name in inside]
    test = [inside[name] for name in TEST_FOLDERS if name in inside]
    if not train or not test or len(inside) > len(train) + len(test):
        return path, None
    return train[0], test[0]


def _typed(path: str) -> str:
    """How settings name training images."""
    if is_list(path):
        return f"data.root={Path(path).parent} data.list_file={path}"
    return f"data.dataset={_dataset_of(path)} data.root={path}"


def _validation(path: Optional[str]) -> str:
    if path is None:
        return ""
    return f" validation.root={Path(path).parent} validation.list_file={path}" if is_list(path) else \
        f" validation.root={path}"


def _pair(size: Any) -> tuple[int, int]:
    height, width = pair(size)
    return int(height), int(width)


def _foreign(root: Path) -> list[str]:
    """The files below a folder whose ending says image and that are not read."""
    endings = tuple(end for end in FOREIGN_EXTENSIONS if end not in readable_extensions())
    return sorted(os.path.join(folder, name) for folder, _, files in os.walk(root, followlinks=False) for name in files
                  if name.lower().endswith(endings) and not name.startswith("."))
