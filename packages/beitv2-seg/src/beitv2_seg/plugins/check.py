# SPDX-License-Identifier: Apache-2.0
"""What `beitv2 check` looks at in segmentation data (entry point `beitv2.checks`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

import numpy as np
from PIL import Image

from beitv2_core.checking.look import Look, look_at
from beitv2_core.checking.parts import TEST, TRAIN, Asked, Check, Part, Plan, Use
from beitv2_core.data import Reading, decode
from beitv2_core.data.sources.image_file import MAX_PIXELS, reason_of
from beitv2_core.data.sources.lists import is_list, read_labelled
from beitv2_core.errors import ConfigError, DataError
from beitv2_seg.config import SegmentConfig
from beitv2_seg.data.forms import FORMS, FoundSamples, find_samples, samples_of
from beitv2_seg.data.forms.found import Asked as Form
from beitv2_seg.data.label_files import label_counts

log = logging.getLogger("beitv2_seg")
#: classes that are counted where nobody says how many there are
MOST_CLASSES = 256
MASKS = "Masks of 0 and 255 need label_map: {255: 1}: 255 is the ignored label, not a class"
#: what is wrong with labels -> (what it is, what to do)
REMEDIES = {
    "size-mismatch": ("label map and image differ in size",
                      "Give both the same size: they are laid over each other pixel by pixel"),
    "label-unreadable": ("a label map that is not read",
                         "Repair it or export it anew; docs/segmentation.md says what is read"),
    "label-outside": ("a label outside the classes",
                      "Set what the message says in the YAML (ignore_index, label_map or model.num_classes)"),
    "one-class": ("only one class has labelled pixels", MASKS),
    "empty-class": ("", "Label some, lower num_classes, or move the labels: label_map: {1: 0, 2: 1, ...}"),
}


class _Images:
    """The images of pairs as files that can be opened."""

    def __init__(self, files: Sequence[Sequence[Any]]) -> None:
        self.files = files

    def path(self, index: int) -> str:
        return str(self.files[index][0])

    def open(self, index: int) -> BinaryIO:
        return open(self.files[index][0], "rb")


class PairLooks:
    """Pairs of image and label map as `look_at` finds them, with what the labels are; images are read upright.

    files: (image, label map); label(index): the label map (H, W) of a pair as classes.  num_classes: None: as many as
    come.
    """

    classes = None

    def __init__(self, files: Sequence[Sequence[Any]], label: Callable[[int], np.ndarray], *,
                 num_classes: Optional[int], ignored: int, max_pixels: int, quick: bool) -> None:
        self.images, self.label, self.quick = _Images(files), label, quick
        self.num_classes, self.ignored = num_classes or MOST_CLASSES, ignored
        self.reading = Reading(upright=True, max_pixels=max_pixels)

    def __len__(self) -> int:
        return len(self.images.files)

    def path(self, index: int) -> str:
        """The image's file."""
        return self.images.path(index)

    def picture(self, index: int) -> Image.Image:
        """The image as RGB; raises whatever broken input raises."""
        return decode(self.path(index), upright=True, max_pixels=self.reading.max_pixels)

    def load(self, index: int) -> Look:
        """Look at one pair."""
        look = look_at(self.images, index, self.reading, self.quick)
        if self.quick:
            return look
        path = str(self.images.files[index][1])
        try:
            label = self.label(index)
        except Exception as error:  # decoders raise anything on broken input
            words = str(error) if isinstance(error, DataError) else f"{path}: {reason_of(error)}"
            return look._replace(faults=(("label-unreadable", words.rstrip(".")),))
        faults: tuple[tuple[str, str], ...] = ()
        if not look.broken and label.shape != (look.height, look.width):
            turned = " (the image is turned by its EXIF data)" if label.shape == (look.width, look.height) else ""
            faults = (("size-mismatch", f"{path}: {label.shape[1]} x {label.shape[0]} pixels, the image {look.width} x "
                       f"{look.height}{turned}"),)
        try:
            counts = label_counts(label, self.num_classes, self.ignored, path)
        except DataError as error:
            faults = (*faults, ("label-outside", str(error).rstrip(".")))
            inside = (label >= 0) & (label < self.num_classes) | (label == self.ignored)
            counts = label_counts(label[inside], self.num_classes, self.ignored, path)
        return look._replace(counts=counts, faults=faults)


def of_settings(config: SegmentConfig, path: str, quick: bool) -> Plan:
    """What `beitv2 segment train` of these settings reads, and evaluates on."""
    parts = [_of_section(config, where, name, role, quick) for where, name, role in (
        ("train_dataset", "train", TRAIN), ("val_dataset", "val", TEST))]
    batch = config.total_batch or config.batch_size
    use = Use(f"beitv2 segment train --config {path}", ("train", "val"), config.model.num_classes, batch, config.iters,
              repeats=config.run.repeats, batch_setting="batch_size" if config.total_batch is None else "total_batch")
    return Plan(path, parts, [use])


def of_path(asked: Asked) -> Optional[Plan]:
    """Segmentation data of any form; None where a folder or a list is none."""
    if not _recognised(asked.path):
        return None
    if asked.overrides:
        raise ConfigError(f"--set: {asked.path} holds label maps; how they are read is said by settings. Check a YAML "
                          "file, e.g. configs/seg/own_data.yml.")
    train = _any_part(asked.path, ("train", "val", "test"))
    found = [(train.part or "train", TRAIN, train)]
    if asked.test is not None:
        found.append(("test", TEST, _any_part(asked.test, ("val", "test", "train"))))
    elif train.part == "train" and Path(asked.path).is_dir():
        for part in ("val", "test"):
            try:
                found.append((part, TEST, _find(asked.path, part)))
            except DataError as error:
                log.info("%s: no part %s: %s", asked.path, part, error)
    parts = [_part(samples, name, role, None, samples.classes, MAX_PIXELS, asked.quick,
                   "" if samples.drawn else f"--opts {where}_dataset.form=list "
                   f"{where}_dataset.dataset_root={samples.root} {where}_dataset.{where}_path=LIST")
             for name, role, samples in found for where in ["train" if role == TRAIN else "val"]]
    names = tuple(part.name for part in parts)
    command = ("beitv2 segment train --config OWN.yml, a copy of configs/seg/own_data.yml with your classes, "
               f"num_classes and pretrained, and train_dataset.dataset_root={train.root}")
    if Path(asked.path).is_file():
        command += f" train_dataset.train_path={asked.path}"
    uses = [Use(command, names, len(train.classes) if train.classes else 0, min(asked.batch, len(train.files)),
                batch_setting="")]
    images = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image, _ in train.files])
    if train.drawn or not any(os.path.abspath(label).startswith(os.path.join(images, "")) for _, label in train.files):
        uses.append(Use(f"beitv2 pretrain {images} -o RUN", (parts[0].name,)))
    return Plan(asked.path if asked.test is None else f"{asked.path}, {asked.test}", parts, uses)


def _recognised(path: str) -> bool:
    if path.lower().endswith(".json"):
        return True
    if is_list(path):
        root = Path(path).parent
        lines = read_labelled(path, root, labels=False, may_miss=1.0, setting="DATA")
        return bool(lines) and all(line.label and (root / line.label).is_file() for line in lines[:3])
    return Path(path).is_dir() and any(fits(Path(path), Form()) for _, fits, _ in FORMS.values())


def _find(path: str, part: str) -> FoundSamples:
    if path.lower().endswith(".json"):
        log.info("%s: pixels without annotation are counted as background (unlabelled: background).", path)
    return find_samples(path, part=part, unlabelled="background")


def _any_part(path: str, order: Sequence[str]) -> FoundSamples:
    """The first part of a list or a folder that is there, or all of it; raises what the first one raises."""
    problems = []
    for part in order:
        try:
            return _find(path, part)
        except DataError as error:
            problems.append(error)
    raise problems[0]


def _of_section(config: SegmentConfig, where: str, name: str, role: str, quick: bool) -> Part:
    samples, count = samples_of(config, where), config.model.num_classes
    pixels = config.run.max_pixels
    if samples is not None:
        names = config.classes or samples.classes or [str(number) for number in range(count)]
        mode = getattr(config, where).options().get("mode", "train" if where == "train_dataset" else "val")
        keys = f"--opts {where}.form=list {where}.{mode}_path=LIST"
        part = _part(samples._replace(ignored=config.ignored), name, role, count, names, pixels, quick,
                     "" if samples.drawn or config.held_out is not None else keys)
        return part
    from beitv2_seg.assembly.data import build_dataset, class_names

    dataset = build_dataset(config, where)
    root = str(getattr(config, where).options().get("dataset_root", getattr(config, where).type))
    if getattr(dataset, "file_list", None) is None:
        return Part(name, role, root, None, len(dataset))
    looks = PairLooks(dataset.file_list, _Labels(dataset), num_classes=count, ignored=config.ignored, max_pixels=pixels,
                      quick=quick)
    return Part(name, role, root, looks, len(looks), pixel_classes=class_names(config), upright=True, remedies=REMEDIES)


class _Labels:
    """The label maps of a data set that reads them itself; a worker process gets it without its transforms."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> np.ndarray:
        return np.asarray(self.dataset.label(index))


class _Found:
    """The label maps of samples."""

    def __init__(self, samples: FoundSamples, max_pixels: int) -> None:
        self.samples, self.max_pixels = samples, max_pixels

    def __call__(self, index: int) -> np.ndarray:
        return self.samples.label(index, max_pixels=self.max_pixels)


def _part(samples: FoundSamples, name: str, role: str, num_classes: Optional[int], names: Optional[Sequence[str]],
          max_pixels: int, quick: bool, set_list: str) -> Part:
    if num_classes is None and samples.classes is not None:
        num_classes = len(samples.classes)
    looks = PairLooks(samples.files, _Found(samples, max_pixels), num_classes=num_classes, ignored=samples.ignored,
                      max_pixels=max_pixels, quick=quick)

    def line(index: int) -> str:
        image, label = samples.files[index]
        return f"{os.path.abspath(image)}\t{os.path.abspath(label)}"

    return Part(name, role, str(samples.root), looks, len(looks), pixel_classes=names, upright=True,
                line=None if samples.drawn else line, list_setting=set_list, remedies=REMEDIES)


SEGMENT = Check(of_settings, of_path)
