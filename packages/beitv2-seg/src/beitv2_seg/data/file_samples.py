# SPDX-License-Identifier: Apache-2.0
"""Pairs of image and label file, read by our readers and handed to transforms as arrays.

PaddleSeg reads with OpenCV inside its `Compose`; ours reads as every other command does, so that training, evaluation,
prediction and the page see the same pixels.  8-bit JPEG and PNG give the pixels OpenCV gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beitv2_core.data.sources.image_file import MAX_PIXELS, decode, explain, reason_of
from beitv2_core.errors import ConfigError, DataError
from beitv2_seg.data import transforms as ours
from beitv2_seg.data.forms.find import find_samples
from beitv2_seg.data.forms.found import Drawn, FoundSamples
from beitv2_seg.data.label_files import LabelError, Unlisted, read_label

Data = dict[str, Any]


class BrokenFile(DataError):
    """A file that cannot be decoded; `file` and `reason` name it."""

    def __init__(self, file: str, error: Exception) -> None:
        super().__init__(str(explain(file, error)).replace("data.max_pixels", "run.max_pixels"))
        self.file, self.reason = file, reason_of(error)

    def __reduce__(self) -> tuple[Any, ...]:  # a worker process sends it: without the decoder's error, which may not be
        return _broken_file, (str(self), self.file, self.reason)


def _broken_file(message: str, file: str, reason: str) -> BrokenFile:
    found = BrokenFile.__new__(BrokenFile, message)
    found.file, found.reason = file, reason
    return found


def read_image(path: str | Path, channels: int = 3, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 (H, W, 3) RGB, or (H, W) grey for one channel, upright as its EXIF data say.

    Raises BrokenFile for a file that cannot be decoded, has more than `max_pixels`, or is of a format not read here.
    """
    try:
        image = decode(path, upright=True, max_pixels=max_pixels)
    except Exception as error:  # decoders raise anything on broken input
        raise BrokenFile(str(path), error) from error
    return np.asarray(image if channels == 3 else image.convert("L"))


def for_transforms(pixels: np.ndarray, transforms: Sequence[Any]) -> np.ndarray:
    """Pixels as transforms expect them: bytes for ours alone, float32 where one is PaddleSeg's, as its Compose does."""
    if all(type(step).__module__ == ours.__name__ for step in transforms):
        return pixels
    return pixels.astype(np.float32)


def transformed(data: Data, transforms: Sequence[Any]) -> Data:
    """`data` after all transforms, its image (C, H, W) and its labels without a channel axis of one."""
    for step in transforms:
        data = step(data)
    image = data["img"] if data["img"].ndim == 3 else data["img"][..., None]
    return {**data, "img": np.ascontiguousarray(image.transpose(2, 0, 1))}


class FileSamples:
    """Samples in PaddleSeg's form: {"img": float32 (C, H, W), "label": integers (H, W), in "val" (1, H, W) at the
    image's own size, "trans_info", "path"}.

    files: [image, label] paths; reduce_zero: number labels as ADE20K does (0 is ignored, 1 .. 150 are 0 .. 149);
    label_map, unlisted: as in `read_label`; drawn: where label maps are drawn from annotations.  Reading raises
    BrokenFile, or another DataError naming the file.
    """

    def __init__(self, files: Sequence[Sequence[str | None]], transforms: Sequence[Any], *, mode: str, num_classes: int,
                 ignore_index: int = 255, img_channels: int = 3, reduce_zero: bool = False):
        self.file_list = [list(pair) for pair in files]
        self.transforms, self.mode = list(transforms), mode
        self.num_classes, self.ignore_index, self.img_channels = num_classes, ignore_index, img_channels
        self.reduce_zero = reduce_zero
        self.label_map: Mapping[str, int] = {}
        self.unlisted: Unlisted = "keep"
        self.drawn: Drawn | None = None
        self.max_pixels = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.file_list)

    def label(self, index: int) -> np.ndarray:
        """The label map (H, W) of a sample before any transform."""
        path = self.file_list[index][1]
        if path is None:
            raise DataError(f"{self.file_list[index][0]}: has no label map. Give one, or leave the image out.")
        if self.drawn is not None:
            return self.drawn.label(str(self.file_list[index][0]), self.label_map, ignored=self.ignore_index,
                                    unlisted=self.unlisted, max_pixels=self.max_pixels)
        try:
            label = read_label(path, self.label_map, ignored=self.ignore_index, unlisted=self.unlisted,
                               max_pixels=self.max_pixels)
        except LabelError:
            raise
        except Exception as error:  # decoders raise anything on broken input
            raise BrokenFile(path, error) from error
        return ours.reduce_zero_label(label) if self.reduce_zero else label

    def __getitem__(self, index: int) -> Data:
        image, label_path = self.file_list[index]
        pixels = read_image(str(image), self.img_channels, max_pixels=self.max_pixels)
        label = self.label(index)
        if label.shape != pixels.shape[:2]:
            turned = (" The image is turned by its EXIF data: labels must fit the upright image, as viewers show it. "
                      "Turn the label maps likewise, or take the orientation out of the EXIF data."
                      if label.shape == decode(str(image), max_pixels=self.max_pixels).size[::-1] else "")
            raise DataError(f"{label_path}: the label map has {label.shape[1]} x {label.shape[0]} pixels, the image "
                            f"{image} {pixels.shape[1]} x {pixels.shape[0]}. Image and label must have the same "
                            f"size.{turned}")
        data: Data = {"img": for_transforms(pixels, self.transforms), "path": image, "trans_info": [], "gt_fields": []}
        if self.mode == "train":
            return transformed({**data, "label": label, "gt_fields": ["label"]}, self.transforms)
        return {**transformed(data, self.transforms), "label": label[None]}


class ListedSamples(FileSamples):
    """`type: Dataset`: PaddleSeg's arguments, and the forms of data that need no list.

    mode: "train", "val" or "test", the part of the data; transforms: what is done to each sample, in order;
    num_classes: number of classes; img_channels: 3, or 1 for grey images; ignore_index: label of pixels without a
    class; edge: refused, no loss here reads edges.  dataset_root: the data's folder; train_path, val_path, test_path:
    the list of that mode (`image label` lines, docs/data.md), or its COCO JSON, or its names of VOC; separator: between
    the two names of a list, where the line does not tell.  form: folders, suffix, cityscapes, voc, coco or list, by
    default what the folder holds; images, labels: folders of other names; label_suffix: what a label map's name has
    behind its image's; unlabelled: "background" or "ignore" (coco).  samples: what was found before; then nothing is
    looked for.
    """

    def __init__(self, mode: str, dataset_root: str, transforms: Sequence[Any], num_classes: int, img_channels: int = 3,
                 train_path: str | None = None, val_path: str | None = None, test_path: str | None = None,
                 separator: str = " ", ignore_index: int = 255, edge: bool = False, form: str | None = None,
                 images: str | None = None, labels: str | None = None, label_suffix: str | None = None,
                 unlabelled: str | None = None, samples: FoundSamples | None = None):
        lists = {"train": train_path, "val": val_path, "test": test_path}
        if mode not in lists:
            raise ConfigError(f"Dataset: mode is {mode!r}; expected one of {', '.join(lists)}.")
        if edge:
            raise ConfigError("Dataset: edge is true, but none of the losses here reads edges. Leave it out.")
        if img_channels not in (1, 3):
            raise ConfigError(f"Dataset: img_channels is {img_channels}; expected 1 or 3.")
        if samples is None:
            samples = find_samples(dataset_root, form=form, part=mode, list_file=lists[mode], images=images,
                                   labels=labels, label_suffix=label_suffix, separator=separator,
                                   unlabelled=unlabelled, ignored=ignore_index)
        super().__init__(samples.files, transforms, mode=mode, num_classes=num_classes, ignore_index=ignore_index,
                         img_channels=img_channels)
        self.samples = samples
        self.label_map, self.unlisted, self.drawn = samples.label_map, samples.unlisted, samples.drawn
