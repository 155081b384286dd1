# SPDX-License-Identifier: Apache-2.0
"""Images of any size by a model of one size: sliding windows, several scales, flips. The arrays are the segmenter's.

Shape suffixes: B batch, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional, Protocol

import numpy as np

from beitv2_core.errors import ShapeError

#: of resized logits that are held at once
STRIPE_BYTES = 32 * 2**20
#: standard deviation of `gaussian_weights`, of a window's side
GAUSSIAN_SHARE = 0.125
#: axes of (1, C, H, W) along which an image is mirrored before it is read and its logits afterwards
Flip = tuple[int, ...]


class Segmenter(Protocol):
    """A model and the arrays it computes with: Paddle's tensors, or numpy's where no Paddle is."""

    def logits(self, images: Any) -> Any:
        """float32 (B, C, H, W) of images (B, 3, H, W) of the model's own size."""

    def zeros(self, shape: Sequence[int]) -> Any:
        """A float32 array of zeros."""

    def array(self, values: np.ndarray) -> Any:
        """Values of numpy."""

    def side_by_side(self, images: Sequence[Any]) -> Any:
        """Images (1, 3, H, W) as one batch."""

    def padded(self, image: Any, below: int, right: int) -> Any:
        """(1, 3, H, W) with rows below and columns on the right of zeros."""

    def mirrored(self, x: Any, axes: Flip) -> Any:
        """The array in reverse order along these axes."""

    def resized_rows(self, x: Any, size: tuple[int, int], rows: tuple[int, int]) -> Any:
        """Rows [top, bottom) alone of (1, C, h, w) resized bilinearly to `size`, corners not aligned."""

    def softmax(self, logits: Any) -> Any:
        """Probabilities over the classes of (1, C, H, W)."""

    def likeliest(self, scores: Any) -> np.ndarray:
        """The class of the highest score, int32 (H, W), of (1, C, H, W)."""


class Windows(NamedTuple):
    """How an image is read: windows of `crop` (height, width) pixels every `stride` pixels, `batch_size` at once.

    The batch size does not change the result.  weights: of a window's pixels, "uniform" or "gaussian".
    """

    crop: tuple[int, int]
    stride: tuple[int, int]
    batch_size: int = 4
    weights: str = "uniform"


def default_windows(crop: tuple[int, int], batch_size: int = 4, weights: str = "uniform") -> Windows:
    """Windows two thirds of a window apart, as the recipe's 512 and 341 pixels."""
    return Windows(crop, (crop[0] * 2 // 3, crop[1] * 2 // 3), batch_size, weights)


def gaussian_weights(crop: tuple[int, int]) -> np.ndarray:
    """float32 (1, 1, height, width): a Gaussian around a window's middle, 1 there, of an eighth of its sides.

    Source: nnU-Net (Isensee et al. 2021), sliding windows; MONAI's `sliding_window_inference(mode="gaussian")` has the
    same width.
    """
    by_side = [np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (GAUSSIAN_SHARE * side)) ** 2) for side in crop]
    return np.outer(*by_side).astype(np.float32)[None, None]


def window_corners(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of every window, row by row; the last ones are shifted back inside the image.

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


def slide_logits(segmenter: Segmenter, image: Any, windows: Windows) -> Any:
    """Logits (1, C, H, W) of one image (1, 3, H, W): the mean over the windows that cover a pixel.

    An image smaller than the crop is padded with zeros (the mean colour) on the right and below.
    Source: mmsegmentation 0.11, EncoderDecoder.slide_inference.  Departs: mmsegmentation does not pad; its backbone
    then fails, as the position tables have one size.  Departs: with "gaussian" weights (off by default) the mean is
    weighted by `gaussian_weights`; mmsegmentation's windows all count alike.
    """
    crop, stride, batch_size, weights = windows
    weight = None if weights == "uniform" else segmenter.array(gaussian_weights(crop))
    height, width = image.shape[2:]
    below, right = max(crop[0] - height, 0), max(crop[1] - width, 0)
    if below or right:
        image = segmenter.padded(image, below, right)
    size = (height + below, width + right)
    corners = window_corners(size, crop, stride)
    total, count = None, segmenter.zeros([1, 1, *size])
    for start in range(0, len(corners), batch_size):
        part = corners[start:start + batch_size]
        logits = segmenter.logits(segmenter.side_by_side(
            [image[:, :, top:top + crop[0], left:left + crop[1]] for top, left in part]))
        if total is None:
            total = segmenter.zeros([1, logits.shape[1], *size])
        for i, (top, left) in enumerate(part):
            part_of_sum = logits[i:i + 1] if weight is None else logits[i:i + 1] * weight
            total[:, :, top:top + crop[0], left:left + crop[1]] += part_of_sum
            count[:, :, top:top + crop[0], left:left + crop[1]] += 1 if weight is None else weight
    return (total / count)[:, :, :height, :width]


def image_logits(segmenter: Segmenter, image: Any, windows: Optional[Windows] = None, *, flip: Flip = ()) -> Any:
    """Logits (1, C, H, W) of one image (1, 3, H, W), by windows or (None) in one piece, mirrored back if mirrored."""
    if flip:
        image = segmenter.mirrored(image, flip)
    logits = segmenter.logits(image) if windows is None else slide_logits(segmenter, image, windows)
    return segmenter.mirrored(logits, flip) if flip else logits


def mean_probabilities(segmenter: Segmenter, images: Sequence[Any], *, size: tuple[int, int],
                       flips: Sequence[Flip] = ((),), windows: Optional[Windows] = None) -> list[Any]:
    """Class probabilities at `size`, the mean over one image at several scales (1, 3, H, W) and over `flips`.

    They come in stripes of rows (1, C, rows, width), from the top down.  Raises ShapeError where there is no image.
    Source: mmsegmentation 0.11, EncoderDecoder.aug_test: logits are resized, softmax is averaged.
    """
    parts = [(image, flip) for image in images for flip in flips]
    if not parts:
        raise ShapeError("mean_probabilities: no image. Give at least one scale and one entry in flips.")
    total: list[Any] = []
    for image, flip in parts:
        for i, stripe in enumerate(_resized(segmenter, image_logits(segmenter, image, windows, flip=flip), size)):
            probabilities = segmenter.softmax(stripe)
            if i == len(total):
                total.append(probabilities)
            else:
                total[i] += probabilities
    return [stripe / len(parts) for stripe in total]


def predict_labels(segmenter: Segmenter, images: Sequence[Any], *, size: tuple[int, int],
                   flips: Sequence[Flip] = ((),), windows: Optional[Windows] = None) -> np.ndarray:
    """The likeliest class of every pixel, int32 `size`, by the `mean_probabilities` of these arguments.

    Works in stripes of rows: one scale needs no logits at full size, several scales one sum of probabilities.
    """
    if len(images) == len(flips) == 1:  # the softmax changes no order
        stripes = _resized(segmenter, image_logits(segmenter, images[0], windows, flip=flips[0]), size)
    else:
        stripes = iter(mean_probabilities(segmenter, images, size=size, flips=flips, windows=windows))
    return np.concatenate([segmenter.likeliest(stripe) for stripe in stripes])


def _resized(segmenter: Segmenter, logits: Any, size: tuple[int, int]) -> Iterator[Any]:
    """Logits at `size`, a stripe of rows at a time."""
    rows = max(1, STRIPE_BYTES // (4 * logits.shape[1] * size[1]))
    for top in range(0, size[0], rows):
        yield segmenter.resized_rows(logits, size, (top, min(top + rows, size[0])))
