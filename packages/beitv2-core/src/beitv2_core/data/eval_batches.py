# SPDX-License-Identifier: Apache-2.0
"""The batches of every evaluation: central crops in order, decoded by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .sources.image_file import OFFICIAL, Reading, decode_path, explain
from .sources.sample import Chosen, Dataset, Sample, spread
from .views.recipes import EvalTransform, LabelledBatch
from .workers import BatchReader, Transform


def eval_batches(dataset: Any, image_size: Any, *, batch_size: int = 128, crop_share: float = 1.0,
                 interpolation: str = "bicubic", limit: int | None = None, numbers: Sequence[int] | None = None,
                 num_workers: int = 0) -> Iterator[LabelledBatch]:
    """Batches (images float32 (B, 3, H, W) in [0, 1], labels int64 (B,), -1 = none, paths) in the data set's order.

    limit: that many images, spread evenly over the data set; numbers: these images (a process's part) instead.
    num_workers: processes that decode; the batches are the same to the bit for any number.  Without an image there is
    no batch.
    """
    chosen = spread(dataset, limit) if numbers is None else Chosen(dataset, numbers)
    with eval_reader(chosen, image_size, batch_size=batch_size, crop_share=crop_share, interpolation=interpolation,
                     num_workers=num_workers) as reader:
        yield from reader.in_order(range(len(chosen)), batch_size)


def eval_reader(dataset: Any, image_size: Any, *, batch_size: int = 128, crop_share: float = 1.0,
                interpolation: str = "bicubic", num_workers: int = 0) -> BatchReader:
    """The reader behind `eval_batches`, for several passes with the same worker processes; close it."""
    transform = EvalTransform(image_size, crop_share=crop_share, interpolation=interpolation)
    return ordered_reader(dataset, transform, batches=-(-len(dataset) // batch_size), num_workers=num_workers)


def ordered_reader(dataset: Dataset, transform: Transform, *, batches: int, num_workers: int = 0) -> BatchReader:
    """A reader of a known number of batches `in_order`, of any transform; close it.

    Few batches get fewer workers: the first one must be waited for in any case.
    """
    return BatchReader(dataset, transform, num_workers=min(num_workers, max(batches - 1, 0)))


class ImageFiles:
    """Named image files as a data set without labels; one that cannot be read is a DataError naming it.

    reading: how files become pixels.
    """

    classes = None

    def __init__(self, paths: Sequence[str], reading: Reading = OFFICIAL) -> None:
        self.paths, self.reading = list(paths), reading

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> Sample:
        """Decode file `index`."""
        path = self.paths[index]
        try:
            image = decode_path(path, reading=self.reading).image
        except Exception as error:  # decoders raise anything on broken input
            raise explain(path, error) from error
        return Sample(image, None, path)
