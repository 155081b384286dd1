# SPDX-License-Identifier: Apache-2.0
"""Bilinear resizing along one axis as a matrix; needs no Paddle."""

from __future__ import annotations

import numpy as np


def linear_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Weights (out_size, in_size) float32 of bilinear resizing along one axis, in float32 as PyTorch computes them.

    Source: torch.nn.functional.interpolate(mode="bilinear", align_corners=False).
    """
    half = np.float32(0.5)
    place = np.maximum((np.arange(out_size, dtype=np.float32) + half) * np.float32(in_size / out_size) - half, 0)
    above = np.minimum(place.astype(np.int64), in_size - 1)
    below = (place - above).astype(np.float32)
    matrix = np.zeros((out_size, in_size), np.float32)
    out = np.arange(out_size)
    np.add.at(matrix, (out, above), 1 - below)
    np.add.at(matrix, (out, np.minimum(above + 1, in_size - 1)), below)
    return matrix
