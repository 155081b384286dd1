# SPDX-License-Identifier: Apache-2.0
"""The samples that a YAML file of settings means: files, labels as classes, images that are held out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

from beitv2_core.data.sources.held_out import held_out_numbers
from beitv2_core.data.sources.lists import read_words
from beitv2_core.errors import ConfigError, DataError
from beitv2_core.files.atomic import write_text_atomically
from beitv2_seg.config import SegmentConfig
from beitv2_seg.data.forms.find import LIST, find_samples
from beitv2_seg.data.forms.found import FoundSamples, below, some

log = logging.getLogger("beitv2_seg")
#: arguments of `type: Dataset` that say which files are meant
FILE_KEYS = ("dataset_root", "form", "images", "labels", "label_suffix", "separator", "unlabelled", "train_path",
             "val_path", "test_path")
#: folder of a run with the lists of images that are trained on and held out
SPLIT = "split"


def samples_of(config: SegmentConfig, where: str, run: Optional[Path] = None) -> Optional[FoundSamples]:
    """The samples of `train_dataset` or `val_dataset`; None where its type is not `Dataset`.  Costs no Paddle.

    run: a run's folder, whose lists are repeated where images are held out.
    Raises what `find_samples` raises, and ConfigError where training and validation would read the same images.
    """
    if getattr(config, where).type != "Dataset":
        if config.held_out is not None:
            raise ConfigError(f"held_out: {where} is {getattr(config, where).type}, which has parts of its own; images "
                              "can be held out of type: Dataset. Leave held_out out.")
        return None
    options = getattr(config, where).options()
    mode = options.get("mode", "train" if where == "train_dataset" else "val")
    if config.held_out is None:
        found = _found(config, options, mode)
        if where == "val_dataset" and found.part is None and _same_files(config, options):
            raise ConfigError(f"val_dataset: {found.root} has no parts for training and validation: both would read "
                              f"all {len(found.files)} images. Let some be held out of training: held_out: 0.2 at the "
                              "top of the YAML, or give val_dataset other files.")
        return found
    given = config.train_dataset.options()
    for key in FILE_KEYS:
        if options.get(key, given.get(key)) != given.get(key):
            raise ConfigError(f"{where}.{key}: {options[key]!r}, but held_out takes images out of train_dataset, whose "
                              f"{key} is {given.get(key)!r}. Leave {key} out, or held_out.")
    train, val = _parted(_found(config, given, given.get("mode", "train")), config.held_out, run)
    return train if where == "train_dataset" else val


def write_split(samples: FoundSamples, folder: Path) -> None:
    """Write what a run trains on and what it holds out as lists `image label`; nothing where none is held out, or in a
    run that goes on.

    samples: those of training.
    """
    if not samples.beside or _goes_on(folder):
        return
    for name, files in (("train", samples.files), ("val", samples.beside)):
        lines = [below(samples.root, image) + ("" if samples.drawn else f"\t{below(samples.root, label)}")
                 for image, label in files]
        write_text_atomically(folder / SPLIT / f"{name}.txt", "".join(f"{line}\n" for line in lines))


def _found(config: SegmentConfig, options: dict[str, Any], part: str) -> FoundSamples:
    if "dataset_root" not in options:
        raise ConfigError("Dataset: dataset_root is missing; it names the folder the data lie in. Add dataset_root: "
                          "FOLDER.")
    names = None if config.label_map else config.classes
    keys = {key: options.get(key) for key in ("form", "images", "labels", "label_suffix", "separator", "unlabelled")}
    keys["separator"] = keys["separator"] or " "  # PaddleSeg's default
    found = find_samples(options["dataset_root"], part=part, list_file=options.get(f"{part}_path"), classes=names,
                         ignored=config.ignored, **keys)
    if config.label_map:
        return found._replace(label_map=config.label_map, unlisted=config.unlisted_labels, classes=None)
    if found.classes is not None and names is None and len(found.classes) != config.model.num_classes:
        raise ConfigError(f"model.num_classes: {config.model.num_classes}, but {found.root} ({found.form}) has "
                          f"{len(found.classes)} classes ({some(found.classes)}). Set model.num_classes to "
                          f"{len(found.classes)}, or say what its labels become: classes: {{NAME: NUMBER, ...}}.")
    return found


def _same_files(config: SegmentConfig, options: dict[str, Any]) -> bool:
    """Whether training has the same settings of files; lists are what their writers made them."""
    given = config.train_dataset.options()
    return config.train_dataset.type == "Dataset" and options.get("form") != LIST and all(
        options.get(key) == given.get(key) for key in FILE_KEYS)


def _parted(found: FoundSamples, held_out: float, run: Optional[Path]) -> tuple[FoundSamples, FoundSamples]:
    """What is trained on and what is held out: by the run's lists where it goes on, else by the names alone."""
    names = found.names()
    if run is not None and _goes_on(run) and (run / SPLIT / "val.txt").is_file():
        return _repeated(found, names, run / SPLIT)
    different = len(set(names))
    count = held_out if isinstance(held_out, int) else max(1, round(held_out * different))
    if count >= different:
        raise DataError(f"held_out: {held_out} of {different} different images are to be held out, which leaves none "
                        f"to train on; expected at most {different - 1}. Lower held_out, or give more images.")
    out = set(held_out_numbers(names, int(count)).tolist())
    return _both([pair for number, pair in enumerate(found.files) if number not in out],
                 [found.files[number] for number in sorted(out)], found)


def _repeated(found: FoundSamples, names: list[str], folder: Path) -> tuple[FoundSamples, FoundSamples]:
    pairs = dict(zip(names, found.files))
    parts = []
    for part in ("train", "val"):
        listed = [text.partition("\t")[0] for _, text in read_words(folder / f"{part}.txt", what="held_out")]
        missing = [name for name in listed if name not in pairs]
        if missing:
            raise DataError(f"{folder / part}.txt: {len(missing)} of its {len(listed)} images are not in {found.root}: "
                            f"{some(missing)}. The run was started with them: put them back, or start a new run.")
        parts.append([pairs.pop(name) for name in listed])
    if pairs:
        log.warning("%s: %d images are in neither list of %s and are left out: %s. A new run takes them.", found.root,
                    len(pairs), folder, some(pairs))
    return _both(parts[0], parts[1], found)


def _both(train: list[tuple[str, str]], val: list[tuple[str, str]],
          found: FoundSamples) -> tuple[FoundSamples, FoundSamples]:
    return found._replace(files=train, beside=val), found._replace(files=val, beside=train)


def _goes_on(run: Path) -> bool:
    """Whether a folder is that of a run with a checkpoint, which can only be resumed."""
    return any((run / "checkpoints").glob("*.pdckpt"))
