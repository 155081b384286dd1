# SPDX-License-Identifier: Apache-2.0
"""A trained model as `windows.Segmenter`, with Paddle's tensors. It records no gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from beitv2_seg.model.heads import resize


class PaddleSegmenter:
    """model: images (B, 3, H, W) -> [logits (B, C, H, W), ...], in eval mode, as `BEiTv2UPerNet`."""

    def __init__(self, model: Any):
        self.model = model

    @paddle.no_grad()
    def logits(self, images: paddle.Tensor) -> paddle.Tensor:
        """The model's first output, float32."""
        return self.model(images)[0].astype("float32")

    def zeros(self, shape: Sequence[int]) -> paddle.Tensor:
        """float32 zeros where the model computes."""
        return paddle.zeros(shape)

    def array(self, values: np.ndarray) -> paddle.Tensor:
        """The values where the model computes."""
        return paddle.to_tensor(values)

    def side_by_side(self, images: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """One batch."""
        return paddle.concat(images)

    def padded(self, image: paddle.Tensor, below: int, right: int) -> paddle.Tensor:
        """Zeros below and on the right."""
        return F.pad(image, [0, right, 0, below])

    def mirrored(self, x: paddle.Tensor, axes: Sequence[int]) -> paddle.Tensor:
        """Reversed along `axes`."""
        return x.flip(list(axes))

    @paddle.no_grad()
    def resized_rows(self, x: paddle.Tensor, size: tuple[int, int], rows: tuple[int, int]) -> paddle.Tensor:
        """Rows [top, bottom) of `resize(x, size)` alone: (1, C, bottom - top, width) from (1, C, h, w)."""
        height, (top, bottom) = x.shape[2], rows
        places = np.maximum((np.arange(top, bottom) + 0.5) * (height / size[0]) - 0.5, 0)
        above = np.minimum(places.astype(np.int64), height - 1)
        below = np.minimum(above + 1, height - 1)
        share = paddle.to_tensor((places - above).astype(np.float32)).reshape([1, 1, -1, 1])
        upper, lower = (x.index_select(paddle.to_tensor(part), axis=2) for part in (above, below))
        return resize(upper + (lower - upper) * share, (bottom - top, size[1]))

    def softmax(self, logits: paddle.Tensor) -> paddle.Tensor:
        """Over the classes."""
        return F.softmax(logits, axis=1)

    def likeliest(self, scores: paddle.Tensor) -> np.ndarray:
        """int32 (H, W)."""
        return scores.argmax(1)[0].numpy().astype(np.int32)
