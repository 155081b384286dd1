"""What a data set hands out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class Sample(NamedTuple):
    """One picture: RGB image, class label (or None), where it came from, pixel classes uint8 (H, W) (or None).

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
