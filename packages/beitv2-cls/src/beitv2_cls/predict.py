"""The likeliest classes of pictures.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from beitv2_core.codes import picture_batches
from beitv2_core.data.transforms import normalise


class Prediction(NamedTuple):
    """A picture's likeliest classes, (name, probability), likeliest first."""

    path: str
    classes: list[tuple[str, float]]


def predict(model: Any, paths: Sequence[str], image_size: Any, names: Sequence[str], *, top: int = 5,
            crop_share: float = 0.875, batch_size: int = 64) -> Iterator[Prediction]:
    """The `top` likeliest classes of every picture, in order; all of them where the model has fewer.

    names: class names by number.  Raises DataError naming a file that cannot be decoded.
    """
    left = iter(paths)
    for images in picture_batches(paths, image_size, batch_size=batch_size, crop_share=crop_share):
        for classes, path in zip(likeliest(model, images, names, top=top), left):
            yield Prediction(path, classes)


def likeliest(model: Any, images: np.ndarray, names: Sequence[str], *, top: int = 5) -> list[list[tuple[str, float]]]:
    """The `top` likeliest classes, (name, probability), of every picture of float32 (B, 3, H, W) in [0, 1]."""
    model.eval()
    with paddle.no_grad():
        shares_BC = F.softmax(model(paddle.to_tensor(normalise(images))).astype("float32"), axis=-1).numpy()
    order = np.argsort(-shares_BC, axis=1, kind="stable")[:, :top]
    return [[(names[i], float(shares[i])) for i in best] for shares, best in zip(shares_BC, order)]
