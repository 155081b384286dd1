# SPDX-License-Identifier: Apache-2.0
"""Logits and probabilities of images of any size: sliding windows, several scales, flips.

Shape suffixes: C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from beitv2_core.errors import ShapeError
from beitv2_seg.model.heads import resize
from beitv2_seg.reading.windows import window_corners

#: of resized logits that are held at once
STRIPE_BYTES = 32 * 2**20


def slide_logits(model: Any, image: paddle.Tensor, *, crop: tuple[int, int], stride: tuple[int, int],
                 batch_size: int = 4) -> paddle.Tensor:
    """Logits (1, C, H, W) of one image (1, 3, H, W): the mean over the windows that cover a pixel.

    crop, stride: (height, width) in pixels.  `batch_size` windows run at once, which does not change the result.
    An image smaller than the crop is padded with zeros (the mean colour) on the right and below.
    Source: mmsegmentation 0.11, EncoderDecoder.slide_inference.  Departs: mmsegmentation does not pad; its backbone
    then fails, as the position tables have one size.
    """
    height, width = image.shape[2:]
    below, right = max(crop[0] - height, 0), max(crop[1] - width, 0)
    if below or right:
        image = F.pad(image, [0, right, 0, below])
    size = (height + below, width + right)
    corners = window_corners(size, crop, stride)
    total, count = None, paddle.zeros([1, 1, *size])
    for start in range(0, len(corners), batch_size):
        part = corners[start:start + batch_size]
        windows = paddle.concat([image[:, :, top:top + crop[0], left:left + crop[1]] for top, left in part])
        logits = model(windows)[0].astype("float32")
        if total is None:
            total = paddle.zeros([1, logits.shape[1], *size])
        for i, (top, left) in enumerate(part):
            total[:, :, top:top + crop[0], left:left + crop[1]] += logits[i:i + 1]
            count[:, :, top:top + crop[0], left:left + crop[1]] += 1
    return (total / count)[:, :, :height, :width]  # type: ignore[operator]  # there is at least one window


class Windows(NamedTuple):
    """How an image is read: windows of `crop` (height, width) pixels every `stride` pixels, `batch_size` at once."""

    crop: tuple[int, int]
    stride: tuple[int, int]
    batch_size: int = 4


#: axes of (1, C, H, W) along which an image is mirrored before it is read and its logits afterwards
Flip = tuple[int, ...]


def image_logits(model: Any, image: paddle.Tensor, windows: Windows | None = None, *,
                   flip: Flip = ()) -> paddle.Tensor:
    """Logits (1, C, H, W) of one image (1, 3, H, W), by windows or (None) in one piece, mirrored back if mirrored."""
    if flip:
        image = image.flip(list(flip))
    logits = (model(image)[0].astype("float32") if windows is None else
              slide_logits(model, image, crop=windows.crop, stride=windows.stride, batch_size=windows.batch_size))
    return logits.flip(list(flip)) if flip else logits


def mean_probabilities(model: Any, images: Sequence[paddle.Tensor], *, size: tuple[int, int],
                       flips: Sequence[Flip] = ((),), windows: Windows | None = None) -> paddle.Tensor:
    """Class probabilities (1, C, *size): the mean over one image at several scales (1, 3, H, W) and over `flips`.

    Logits are resized to `size` before the softmax.
    Source: mmsegmentation 0.11, EncoderDecoder.aug_test: softmax is averaged, not logits.
    """
    stripes = _probability_stripes(model, images, size, flips, windows)
    return paddle.concat(stripes, axis=2)


def predict_labels(model: Any, images: Sequence[paddle.Tensor], *, size: tuple[int, int],
                   flips: Sequence[Flip] = ((),), windows: Windows | None = None) -> np.ndarray:
    """The likeliest class of every pixel, int32 `size`, from `mean_probabilities` of these arguments.

    Works in stripes of rows: one scale needs no logits at full size, several scales one sum of probabilities.
    """
    if len(images) == len(flips) == 1:  # the softmax changes no order
        logits = image_logits(model, images[0], windows, flip=flips[0])
        stripes: Iterator[paddle.Tensor] = (resized_rows(logits, size, rows)
                                            for rows in _row_stripes(size, logits.shape[1]))
    else:
        stripes = iter(_probability_stripes(model, images, size, flips, windows))
    return np.concatenate([stripe.argmax(1)[0].numpy().astype(np.int32) for stripe in stripes])


def resized_rows(x: paddle.Tensor, size: tuple[int, int], rows: tuple[int, int]) -> paddle.Tensor:
    """Rows [top, bottom) of `resize(x, size)` alone: (1, C, bottom - top, width) from (1, C, h, w)."""
    height, (top, bottom) = x.shape[2], rows
    places = np.maximum((np.arange(top, bottom) + 0.5) * (height / size[0]) - 0.5, 0)
    above = np.minimum(places.astype(np.int64), height - 1)
    below = np.minimum(above + 1, height - 1)
    share = paddle.to_tensor((places - above).astype(np.float32)).reshape([1, 1, -1, 1])
    upper, lower = (x.index_select(paddle.to_tensor(part), axis=2) for part in (above, below))
    return resize(upper + (lower - upper) * share, (bottom - top, size[1]))


def _probability_stripes(model: Any, images: Sequence[paddle.Tensor], size: tuple[int, int], flips: Sequence[Flip],
                         windows: Windows | None) -> list[paddle.Tensor]:
    parts = [(image, flip) for image in images for flip in flips]
    if not parts:
        raise ShapeError("mean_probabilities: no image. Give at least one scale and one entry in flips.")
    total: list[paddle.Tensor] = []
    for image, flip in parts:
        logits = image_logits(model, image, windows, flip=flip)
        for i, rows in enumerate(_row_stripes(size, logits.shape[1])):
            stripe = F.softmax(resized_rows(logits, size, rows), axis=1)
            if i == len(total):
                total.append(stripe)
            else:
                total[i] = total[i].add_(stripe)
    return [stripe / len(parts) for stripe in total]


def _row_stripes(size: tuple[int, int], classes: int) -> list[tuple[int, int]]:
    rows = max(1, STRIPE_BYTES // (4 * classes * size[1]))
    return [(top, min(top + rows, size[0])) for top in range(0, size[0], rows)]
