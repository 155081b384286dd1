# SPDX-License-Identifier: Apache-2.0
"""Segmenting images of any size with an exported segmenter: numpy only, no Paddle.

The same windows, means and resizing as `beitv2_seg.reading.inference`.

Shape suffixes: C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from beitv2_core.errors import ShapeError
from beitv2_core.exported_model import Exported
from beitv2_seg.model.bilinear import linear_matrix
from beitv2_seg.reading.windows import window_corners

#: of resized logits that are held at once
STRIPE_BYTES = 32 * 2**20
#: axes of (C, H, W) along which an image is mirrored before it is read and its logits afterwards
Flip = tuple[int, ...]


def predict_labels(model: Exported, images: Sequence[np.ndarray], *, size: tuple[int, int],
                   flips: Sequence[Flip] = ((),), stride: tuple[int, int] | None = None,
                   batch_size: int = 4) -> np.ndarray:
    """The likeliest class of every pixel, int32 `size`: mean of the probabilities over scales and flips.

    images: one image at several scales, each (3, H, W) float32 after mean and std.  stride: (height, width) from one
    window to the next, default two thirds of a window.  Works in stripes of rows where there is one scale and one flip.
    Source: mmsegmentation 0.11, EncoderDecoder.aug_test: logits are resized, softmax is averaged.
    """
    parts = [(image, flip) for image in images for flip in flips]
    if not parts:
        raise ShapeError("predict_labels: no image. Give at least one scale and one entry in flips.")
    if len(parts) == 1:  # the softmax changes no order
        logits = slide_logits(model, parts[0][0], flip=parts[0][1], stride=stride, batch_size=batch_size)
        found = [resized_rows(logits, size, rows).argmax(0) for rows in _row_stripes(size, len(logits))]
        return np.concatenate(found).astype(np.int32)
    total = np.zeros((len(model.description.classes or ()), *size), dtype=np.float32)
    for image, flip in parts:
        logits = slide_logits(model, image, flip=flip, stride=stride, batch_size=batch_size)
        for rows in _row_stripes(size, len(logits)):
            total[:, rows[0]:rows[1]] += softmax(resized_rows(logits, size, rows), axis=0)
    return total.argmax(0).astype(np.int32)


def slide_logits(model: Exported, image: np.ndarray, *, flip: Flip = (), stride: tuple[int, int] | None = None,
                 batch_size: int = 4) -> np.ndarray:
    """Logits (C, H, W) of one image (3, H, W): the mean over the windows that cover a pixel.

    An image smaller than a window is padded with zeros (the mean colour) on the right and below.
    Source: mmsegmentation 0.11, EncoderDecoder.slide_inference.
    """
    image = np.flip(image, flip) if flip else image
    crop = model.image_size
    height, width = image.shape[1:]
    below, right = max(crop[0] - height, 0), max(crop[1] - width, 0)
    size = (height + below, width + right)
    padded = np.pad(image, ((0, 0), (0, below), (0, right)))
    corners = window_corners(size, crop, stride or (crop[0] * 2 // 3, crop[1] * 2 // 3))
    count = np.zeros(size, dtype=np.float32)
    total = np.zeros((len(model.description.classes or ()), *size), dtype=np.float32)
    for start in range(0, len(corners), batch_size):
        part = corners[start:start + batch_size]
        windows = np.stack([padded[:, top:top + crop[0], left:left + crop[1]] for top, left in part])
        for (top, left), one in zip(part, model.run_normalised(windows)["logits"]):
            total[:, top:top + crop[0], left:left + crop[1]] += one
            count[top:top + crop[0], left:left + crop[1]] += 1
    found = (total / count)[:, :height, :width]
    return np.flip(found, flip) if flip else found


def resized_rows(x: np.ndarray, size: tuple[int, int], rows: tuple[int, int]) -> np.ndarray:
    """Rows [top, bottom) of x (C, h, w) resized bilinearly to `size`, corners not aligned: (C, bottom - top, width)."""
    by_row = linear_matrix(x.shape[1], size[0])[rows[0]:rows[1]]
    by_column = linear_matrix(x.shape[2], size[1])
    return np.matmul(np.matmul(by_row, x), by_column.T)


def _row_stripes(size: tuple[int, int], classes: int) -> list[tuple[int, int]]:
    rows = max(1, STRIPE_BYTES // (4 * classes * size[1]))
    return [(top, min(top + rows, size[0])) for top in range(0, size[0], rows)]
