"""What a data set hands out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class Sample(NamedTuple):
    """One picture: RGB image, class label (or None), where it came from, pixel classes uint8 (H, W) (or None)."""

    image: Image.Image
    label: int | None
    path: str
    mask: np.ndarray | None = None


class Dataset(Protocol):
    """Anything with a length, `load(index)` and the names of its classes (None when it has none)."""

    @property
    def classes(self) -> list[str] | None: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample: ...
