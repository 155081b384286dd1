"""Logits and probabilities of pictures of any size: sliding windows, several scales, flips.

Shape suffixes: C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F

from beitv2_core.errors import ShapeError
from beitv2_seg.heads import resize


def window_corners(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of every window, row by row; the last ones are shifted back inside the picture.

    Raises ShapeError where the windows would leave gaps.  Source: mmsegmentation 0.11, EncoderDecoder.slide_inference.
    """
    if any(not 0 < s <= c for s, c in zip(stride, crop)):
        raise ShapeError(f"window_corners: stride {stride} and crop {crop}; expected 0 < stride <= crop, otherwise "
                         "pixels between the windows are never seen.")
    places = []
    for length, side, step in zip(size, crop, stride):
        count = max(length - side + step - 1, 0) // step + 1
        places.append([max(min(i * step + side, length) - side, 0) for i in range(count)])
    return [(top, left) for top in places[0] for left in places[1]]


def slide_logits(model: Any, image: paddle.Tensor, *, crop: tuple[int, int], stride: tuple[int, int],
                 batch_size: int = 4) -> paddle.Tensor:
    """Logits (1, C, H, W) of one picture (1, 3, H, W): the mean over the windows that cover a pixel.

    crop, stride: (height, width) in pixels.  `batch_size` windows run at once, which does not change the result.
    A picture smaller than the crop is padded with zeros (the mean colour) on the right and below.
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


def probabilities(model: Any, image: paddle.Tensor, *, size: tuple[int, int], crop: tuple[int, int] | None = None,
                  stride: tuple[int, int] | None = None, flip: bool = False, batch_size: int = 4) -> paddle.Tensor:
    """Class probabilities (1, C, *size) of one picture (1, 3, H, W), resized to `size` before the softmax.

    With crop and stride by sliding windows, otherwise in one piece; `flip`: of the mirrored picture, mirrored back.
    Source: mmsegmentation 0.11, EncoderDecoder.inference.
    """
    if flip:
        image = image.flip(3)
    logits = (model(image)[0].astype("float32") if crop is None or stride is None
              else slide_logits(model, image, crop=crop, stride=stride, batch_size=batch_size))
    found = F.softmax(resize(logits, size), axis=1)
    return found.flip(3) if flip else found


def mean_probabilities(model: Any, images: Sequence[paddle.Tensor], *, size: tuple[int, int],
                       flips: Sequence[bool] = (False,), **sliding: Any) -> paddle.Tensor:
    """The mean of `probabilities` over the same picture at several scales, and over `flips`: (1, C, *size).

    Source: mmsegmentation 0.11, EncoderDecoder.aug_test: softmax is averaged, not logits.
    """
    total = None
    for image in images:
        for flip in flips:
            part = probabilities(model, image, size=size, flip=flip, **sliding)
            total = part if total is None else total.add_(part)
    if total is None:
        raise ShapeError("mean_probabilities: no picture. Give at least one scale and one entry in flips.")
    return total / (len(images) * len(flips))
