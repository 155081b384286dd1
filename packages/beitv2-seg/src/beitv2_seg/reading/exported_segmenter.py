# SPDX-License-Identifier: Apache-2.0
"""An exported model as `windows.Segmenter`, with numpy's arrays: runs where no Paddle is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from beitv2_core.exported_model import Exported
from beitv2_seg.model.bilinear import linear_matrix


class ExportedSegmenter:
    """model: of `load_exported(..., kind="segmenter")`; its windows have one size, `model.image_size`."""

    def __init__(self, model: Exported):
        self.model = model

    def logits(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) of images that mean and std were applied to."""
        return self.model.run_normalised(images)["logits"]

    def zeros(self, shape: Sequence[int]) -> np.ndarray:
        """float32 zeros."""
        return np.zeros(shape, dtype=np.float32)

    def array(self, values: np.ndarray) -> np.ndarray:
        """The values themselves."""
        return values

    def side_by_side(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """One batch."""
        return np.concatenate(images)

    def padded(self, image: np.ndarray, below: int, right: int) -> np.ndarray:
        """Zeros below and on the right."""
        return np.pad(image, ((0, 0), (0, 0), (0, below), (0, right)))

    def mirrored(self, x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        """Reversed along `axes`."""
        return np.flip(x, axes)

    def resized_rows(self, x: np.ndarray, size: tuple[int, int], rows: tuple[int, int]) -> np.ndarray:
        """Rows [top, bottom) of x (1, C, h, w) resized bilinearly to `size`: (1, C, bottom - top, width)."""
        by_row = linear_matrix(x.shape[2], size[0])[rows[0]:rows[1]]
        by_column = linear_matrix(x.shape[3], size[1])
        return np.matmul(np.matmul(by_row, x), by_column.T)

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Over the classes."""
        return softmax(logits, axis=1)

    def likeliest(self, scores: np.ndarray) -> np.ndarray:
        """int32 (H, W)."""
        return scores.argmax(1)[0].astype(np.int32)
