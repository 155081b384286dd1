# SPDX-License-Identifier: Apache-2.0
"""The likeliest classes of images.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from beitv2_core.data import ImageFiles, Reading, eval_batches
from beitv2_core.data.sources.image_file import OFFICIAL
from beitv2_core.data.views.transforms import normalise
from beitv2_core.exported_model import Exported


class Prediction(NamedTuple):
    """An image's likeliest classes, (name, probability), likeliest first."""

    path: str
    classes: list[tuple[str, float]]


def predict(model: Any, paths: Sequence[str], image_size: Any, names: Sequence[str], *, top: int = 5,
            crop_share: float = 0.875, batch_size: int = 64, reading: Reading = OFFICIAL,
            num_workers: int = 0) -> Iterator[Prediction]:
    """The `top` likeliest classes of every image, in order; all of them where the model has fewer.

    names: class names by number.  reading: how its run reads image files; num_workers: processes that decode them.
    model: a classifier, or an exported one, which needs no Paddle.
    Raises DataError naming a file that cannot be decoded.
    """
    for batch in eval_batches(ImageFiles(paths, reading), image_size, batch_size=batch_size, crop_share=crop_share,
                              num_workers=num_workers):
        for classes, path in zip(likeliest(model, batch.images, names, top=top), batch.paths):
            yield Prediction(path, classes)


def likeliest(model: Any, images: np.ndarray, names: Sequence[str], *, top: int = 5) -> list[list[tuple[str, float]]]:
    """The `top` likeliest classes, (name, probability), of every image of float32 (B, 3, H, W) in [0, 1]."""
    shares_BC = softmax(logits(model, images), axis=-1)
    order = np.argsort(-shares_BC, axis=1, kind="stable")[:, :top]
    return [[(names[i], float(shares[i])) for i in best] for shares, best in zip(shares_BC, order)]


def predict_exported(model: Exported, paths: Sequence[str], *, top: int = 5, batch_size: int = 64,
                     num_workers: int = 0, max_pixels: int | None = None) -> Iterator[Prediction]:
    """`predict` of an exported classifier, with the crop and the class names it was exported with."""
    known = model.description
    reading = model.reading if max_pixels is None else model.reading._replace(max_pixels=max_pixels)
    return predict(model, paths, known.image_size, known.classes or (), top=top, crop_share=known.crop_share,
                   batch_size=batch_size, reading=reading, num_workers=num_workers)


def logits(model: Any, images: np.ndarray) -> np.ndarray:
    """Logits (B, C) float32 of images (B, 3, H, W) in [0, 1]."""
    if isinstance(model, Exported):
        return model.run(images)["logits"]
    import paddle

    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(normalise(images))).astype("float32").numpy()
