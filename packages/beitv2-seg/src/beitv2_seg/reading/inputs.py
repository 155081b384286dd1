# SPDX-License-Identifier: Apache-2.0
"""From files to what a segmentor reads, image by image: in worker processes or in place, with the same result.

Images differ in size, so a batch of the reader is one image at all its scales.  Importing this costs no Paddle.
"""

from __future__ import annotations

import abc
import functools
import random
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from beitv2_core.data import SampleRng, ordered_reader
from beitv2_core.errors import BEiTError, ConfigError, DataError
from beitv2_core.pixels.size import MAX_PIXELS
from beitv2_seg.data.dataset import label_path_of, named, path_of, undecodable
from beitv2_seg.data.file_samples import BrokenFile, for_transforms, read_image, transformed
from beitv2_seg.data.label_files import label_counts
from beitv2_seg.data.transforms import BEiTv2Resize

Data = dict[str, Any]


class LabelledImage(NamedTuple):
    """path: the image's file; inputs: see `multi_scale_inputs`; label: integers (H, W); ignored: its pixels without a
    class."""

    path: str
    inputs: list[Data]
    label: np.ndarray
    ignored: int


class UnlabelledImage(NamedTuple):
    """path: the image's file; inputs: see `multi_scale_inputs`; pixels: RGB uint8 (H, W, 3)."""

    path: str
    inputs: list[Data]
    pixels: np.ndarray


class _OneByOne(abc.ABC):
    """A data set of the reader and its transform in one, whose batch is one image."""

    classes = None

    def load(self, index: int) -> Any:
        """The number itself: decoding and resizing are one call, `read`."""
        return index

    @abc.abstractmethod
    def read(self, index: int) -> Any:
        """Image `index`."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    def __call__(self, index: int, rng: SampleRng) -> Data:
        """Image `index`; transforms of PaddleSeg that draw do so from the global generators, by a seed of its own."""
        seed = rng.python.getrandbits(32)
        random.seed(seed)
        np.random.seed(seed)
        return {"image": self.read(index)}

    def batch(self, stacked: Data) -> Any:
        """The one image."""
        (image,) = stacked["image"]
        return image

    def in_order(self, numbers: Sequence[int], num_workers: int = 0) -> Generator[Any, None, None]:
        """These images one after the other; `num_workers` processes, which end with it, read two images ahead each."""
        with ordered_reader(self, self, batches=len(numbers), num_workers=num_workers) as reader:
            yield from reader.in_order(numbers, 1)


class LabelledImages(_OneByOne):
    """The `LabelledImage`s of a PaddleSeg data set in "val" mode, at several scales.

    ignored: label of pixels without a class.  Reading raises DataError for an undecodable file and for a label outside
    the classes, and what `multi_scale_inputs` raises.
    """

    def __init__(self, dataset: Any, scales: Sequence[float], *, num_classes: int, ignored: int = 255) -> None:
        self.dataset, self.scales, self.num_classes, self.ignored = dataset, scales, num_classes, ignored

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> LabelledImage:
        """Image `index` with its label map."""
        data = multi_scale_inputs(functools.partial(_read, self.dataset, index),
                                  getattr(self.dataset, "transforms", None), self.scales)
        label = np.asarray(data[0]["label"])
        label = label.reshape(label.shape[-2:])
        counts = label_counts(label, self.num_classes, self.ignored, label_path_of(self.dataset, index))
        return LabelledImage(path_of(self.dataset, index), _for_model(data), label, int(counts[-1]))


class ImageFileInputs(_OneByOne):
    """The `UnlabelledImage`s of files, through `transforms`, at several scales.

    Reading raises DataError for a file that cannot be decoded, and what `multi_scale_inputs` raises.
    """

    def __init__(self, paths: Sequence[str], transforms: Sequence[Any], scales: Sequence[float], *,
                 max_pixels: int = MAX_PIXELS) -> None:
        self.paths, self.transforms, self.scales, self.max_pixels = list(paths), transforms, scales, max_pixels

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> UnlabelledImage:
        """Image `index`."""
        pixels = read_image(self.paths[index], max_pixels=self.max_pixels)
        return UnlabelledImage(self.paths[index], image_inputs(pixels, self.transforms, self.scales), pixels)


def image_inputs(pixels: np.ndarray, transforms: Sequence[Any], scales: Sequence[float]) -> list[Data]:
    """The `multi_scale_inputs` of one RGB image uint8 (H, W, 3)."""
    def read() -> Data:
        data = {"img": for_transforms(pixels, transforms), "trans_info": [], "gt_fields": []}
        return transformed(data, transforms)

    return _for_model(multi_scale_inputs(read, transforms, scales))


def multi_scale_inputs(read: Callable[[], Data], pipeline: Any, scales: Sequence[float]) -> list[Data]:
    """The image `read()` gives, once for every scale: by the `BEiTv2Resize` in `pipeline`, from the original.

    Raises ConfigError where there is none and other scales than 1 are asked for.
    Source: mmsegmentation 0.11, MultiScaleFlipAug with img_ratios (PaddleSeg enlarges the resized image instead).
    """
    steps = getattr(pipeline, "transforms", pipeline)
    resizes = [step for step in steps or () if isinstance(step, BEiTv2Resize)]
    if not resizes and tuple(scales) != (1.0,):
        raise ConfigError(f"test_config.scales: {list(scales)}, but val_dataset.transforms has no BEiTv2Resize, which "
                          "reads an image at several scales. Add it, or leave aug_eval out.")
    ratios = [resize.ratio for resize in resizes]
    found = []
    try:
        for scale in scales:
            for resize, ratio in zip(resizes, ratios):
                resize.ratio = ratio * scale
            found.append(read())
    finally:
        for resize, ratio in zip(resizes, ratios):
            resize.ratio = ratio
    return found


def _for_model(data: Sequence[Data]) -> list[Data]:
    """What `predict_label_map` reads of the samples: the rest need not go from process to process."""
    return [{"img": one["img"], "trans_info": one.get("trans_info") or []} for one in data]


def _read(dataset: Any, index: int) -> Data:
    try:
        return dataset[index]
    except BrokenFile as error:
        raise DataError(f"{error.file}: cannot be read for the evaluation ({error.reason}). Repair the file; a measure "
                        "must not leave images out.") from error
    except BEiTError as error:
        raise named(error, dataset, index) from error
    except Exception as error:  # decoders raise anything on broken input
        broken = undecodable(dataset, index) or (path_of(dataset, index), f"{type(error).__name__}: {error}")
        raise DataError(f"{broken[0]}: cannot be read for the evaluation ({broken[1]}). Repair the file; a measure "
                        "must not leave images out.") from error
