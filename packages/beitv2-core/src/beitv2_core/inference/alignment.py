# SPDX-License-Identifier: Apache-2.0
"""Whether one picture is another one, cropped or not: both are laid over each other and correlated.

A window is (vertical scale, vertical shift, horizontal scale, horizontal shift), in pixels of the first picture: where
the second one lies in it.  Shape suffixes: P pairs, Y X rows and columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate1d, uniform_filter1d

#: windows that are tried of one axis: the whole, and nine tenths of it at the start, in the middle, at the end
TRIED = ((1.0, 0.0), (0.9, -0.05), (0.9, 0.0), (0.9, 0.05))
#: how far a window may go: smallest and largest scale, largest shift as a share of the side
SCALES, SHIFT = (0.75, 1 / 0.75), 0.2
#: least share of the second picture that the first one must cover
COVERED = 0.6


class Match(NamedTuple):
    """How alike two pictures are where they lie over each other, (P,) each.

    correlation: of the smoothed greys; detail: of what is finer than a quarter of the picture.  window: (P, 4).
    """

    correlation: np.ndarray
    detail: np.ndarray
    window: np.ndarray


def axis_weights(scale: np.ndarray, shift: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (P, side, side) that read one axis of a picture through windows, and which pixels lie in it (P, side)."""
    middle = (side - 1) / 2
    place = scale[:, None] * (np.arange(side) - middle) + middle + shift[:, None]
    inside = (place >= -0.5) & (place <= side - 0.5)
    distance = np.abs(np.clip(place, 0, side - 1)[:, :, None] - np.arange(side))
    return np.maximum(0, 1 - distance).astype(np.float32), inside


def through(first_PYX: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first pictures seen through the windows, and 1.0 where they have pixels, both (P, Y, X)."""
    side = first_PYX.shape[1]
    rows, inside_rows = axis_weights(window[:, 0], window[:, 1], side)
    columns, inside_columns = axis_weights(window[:, 2], window[:, 3], side)
    mask = (inside_rows[:, :, None] & inside_columns[:, None, :]).astype(np.float32)
    return rows @ first_PYX @ columns.transpose(0, 2, 1), mask


def correlation(a_PYX: np.ndarray, b_PYX: np.ndarray, mask_PYX: np.ndarray) -> np.ndarray:
    """Normalised correlation (P,) where the mask is 1."""
    a_PYX, b_PYX = _centred(a_PYX, mask_PYX), _centred(b_PYX, mask_PYX)
    lengths = np.sqrt((a_PYX**2).sum((1, 2)) * (b_PYX**2).sum((1, 2)))
    return np.asarray((a_PYX * b_PYX).sum((1, 2)) / np.maximum(lengths, 1e-3))


def align(first_PYX: np.ndarray, second_PYX: np.ndarray, window: np.ndarray, *, steps: int = 6) -> np.ndarray:
    """The best windows (P, 4) found from the given ones by Gauss-Newton steps on the grey values.

    Source: Lucas and Kanade 1981, with a gain and an offset of the brightness fitted in every step.
    """
    side = first_PYX.shape[1]
    window, best = window.astype(np.float32), window.astype(np.float32)
    highest = np.full(len(window), -1.0, np.float32)
    from_middle = (np.arange(side) - (side - 1) / 2).astype(np.float32)
    least = np.asarray([SCALES[0], -SHIFT * side] * 2, np.float32)
    most = np.asarray([SCALES[1], SHIFT * side] * 2, np.float32)
    limit = np.asarray([0.08, side / 16] * 2, np.float32)
    for step in range(steps + 1):
        seen, mask = through(first_PYX, window)
        score = correlation(seen, second_PYX, mask) * np.minimum(1, mask.mean((1, 2)) / COVERED)
        better = score > highest
        highest, best = np.where(better, score, highest), np.where(better[:, None], window, best)
        if step == steps:
            break
        down, right = np.gradient(seen, axis=1), np.gradient(seen, axis=2)
        down, right = down / window[:, 0, None, None], right / window[:, 2, None, None]
        a_PYX, b_PYX = _centred(seen, mask), _centred(second_PYX, mask)
        gain = np.sqrt((a_PYX**2).sum((1, 2)) / np.maximum((b_PYX**2).sum((1, 2)), 1e-3))
        error = (b_PYX * gain[:, None, None] - a_PYX).reshape(len(window), -1, 1)
        slopes = np.stack([down * from_middle[:, None], down, right * from_middle, right], -1) * mask[..., None]
        slopes = slopes.reshape(len(window), -1, 4)
        square = slopes.transpose(0, 2, 1) @ slopes
        damping = 1e-3 * np.trace(square, axis1=1, axis2=2)[:, None, None] / 4 + 1e-3
        move = np.linalg.solve(square + damping * np.eye(4, dtype=np.float32), slopes.transpose(0, 2, 1) @ error)
        window = np.clip(window + np.clip(move[..., 0], -limit, limit), least, most).astype(np.float32)
    return best


def compare(first_PYX: np.ndarray, second_PYX: np.ndarray, window: np.ndarray) -> Match:
    """How alike pictures are, aligned from the given windows on."""
    first_PYX, second_PYX = first_PYX.astype(np.float32), second_PYX.astype(np.float32)
    window = align(first_PYX, second_PYX, window)
    seen, mask = through(first_PYX, window)
    a_PYX, b_PYX = smooth(seen), smooth(second_PYX)
    return Match(correlation(a_PYX, b_PYX, mask), correlation(_fine(a_PYX), _fine(b_PYX), mask), window)


def _centred(x_PYX: np.ndarray, mask_PYX: np.ndarray) -> np.ndarray:
    mean = (x_PYX * mask_PYX).sum((1, 2)) / np.maximum(mask_PYX.sum((1, 2)), 1)
    return np.asarray((x_PYX - mean[:, None, None]) * mask_PYX)


def smooth(x_PYX: np.ndarray) -> np.ndarray:
    """Pictures, smoothed by one pixel each way."""
    weights = np.asarray([0.25, 0.5, 0.25], np.float32)
    return np.asarray(correlate1d(correlate1d(x_PYX, weights, axis=1, mode="nearest"), weights, axis=2, mode="nearest"))


def _fine(x_PYX: np.ndarray) -> np.ndarray:
    width = x_PYX.shape[1] // 4 + 1
    means = uniform_filter1d(uniform_filter1d(x_PYX, width, axis=1, mode="nearest"), width, axis=2, mode="nearest")
    return np.asarray(x_PYX - means)


class Crops:
    """Unit vectors of pictures and of the windows in `TRIED`, to see quickly whether aligning a pair is worth it."""

    def __init__(self, side: int) -> None:
        scale, shift = np.asarray(TRIED, np.float32).T
        weights, _ = axis_weights(scale, shift * side, side)
        self.side = side
        self.weights = weights.reshape(len(TRIED), side // 2, 2, side).mean(2)

    def vectors(self, pictures_PYX: np.ndarray) -> np.ndarray:
        """float32 (P, windows, values) of unit length and mean 0, the whole first."""
        found = np.einsum("aiy,pyx,bjx->pabij", self.weights, pictures_PYX.astype(np.float32), self.weights,
                          optimize=True).reshape(len(pictures_PYX), len(TRIED) ** 2, -1)
        found -= found.mean(-1, keepdims=True)
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-3))

    def start(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best correlation (P,) of pairs of `vectors`, either cropped out of the other, and its window (P, 4)."""
        inside = np.einsum("pkd,pd->pk", first, second[:, 0])
        outside = np.einsum("pkd,pd->pk", second, first[:, 0])
        both = np.concatenate([inside, outside], axis=1)
        chosen = both.argmax(1)
        count = len(TRIED)
        number = chosen % count**2
        tried = np.asarray(TRIED, np.float32)
        rows, columns = tried[number // count], tried[number % count]
        window = np.stack([rows[:, 0], rows[:, 1] * self.side, columns[:, 0], columns[:, 1] * self.side], axis=1)
        turned = np.stack([1 / window[:, 0], -window[:, 1] / window[:, 0], 1 / window[:, 2],
                           -window[:, 3] / window[:, 2]], axis=1)
        return both.max(1), np.where((chosen >= count**2)[:, None], turned, window)
