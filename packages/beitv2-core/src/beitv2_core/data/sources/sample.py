# SPDX-License-Identifier: Apache-2.0
"""What a data set hands out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image


class Sample(NamedTuple):
    """One image: RGB image, class label (or None), where it came from, pixel classes uint8 (H, W) (or None).

    full_size: (width, height) in the file, and reduction: how much smaller it was decoded, where it was (`draft`).
    """

    image: Image.Image
    label: int | None
    path: str
    mask: np.ndarray | None = None
    full_size: tuple[int, int] | None = None
    reduction: int = 1


class Dataset(Protocol):
    """Anything with a length, `load(index)` and the names of its classes (None when it has none)."""

    @property
    def classes(self) -> list[str] | None: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample: ...


def spread(dataset: Any, count: int | None) -> Any:
    """`count` images spread evenly over a data set (files are sorted: the first ones are alike), or all of them."""
    if count is None or len(dataset) <= count:
        return dataset
    return Chosen(dataset, np.linspace(0, len(dataset) - 1, count).astype(np.int64))


class Chosen:
    """Some images of a data set, by their numbers, in that order."""

    def __init__(self, dataset: Any, numbers: Any) -> None:
        self.dataset, self.numbers = dataset, np.asarray(numbers, dtype=np.int64)
        self.classes = dataset.classes
        labels = getattr(dataset, "labels", None)
        self.labels = None if labels is None else labels[self.numbers]
        if hasattr(dataset, "corrupt"):
            self.corrupt = dataset.corrupt  # files that cannot be read count for the whole

    def __len__(self) -> int:
        return len(self.numbers)

    def load(self, index: int) -> Sample:
        """Image `index` of the chosen ones."""
        return self.dataset.load(int(self.numbers[index]))
