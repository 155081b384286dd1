# SPDX-License-Identifier: Apache-2.0
"""Where the windows lie that a large image is read by. Needs no Paddle."""

from __future__ import annotations

from beitv2_core.errors import ShapeError


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
