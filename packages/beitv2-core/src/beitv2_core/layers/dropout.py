# SPDX-License-Identifier: Apache-2.0
"""Dropout whose draws belong to the sample."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.layers.draws import draw_for_local_samples, draw_sample_by_sample


class Dropout(nn.Layer):
    """Zero elements with probability `rate` and rescale the rest (training only), as `paddle.nn.Dropout` does.

    x: (B, ...).  whole_channels: zero channels x[b, c] as a whole (`paddle.nn.Dropout2D`).  A sample's draw does not
    depend on the number of processes or micro-batches; as many are drawn as this process's batch has elements.
    """

    def __init__(self, rate: float = 0.0, *, whole_channels: bool = False):
        super().__init__()
        self.rate, self.whole_channels = float(rate), whole_channels

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        shape = x.shape[1:2] + [1] * (x.ndim - 2) if self.whole_channels else x.shape[1:]
        axis = [0, 1] if self.whole_channels else None
        # Dropout of ones: Paddle's own dropout, for other rows than those of x.
        # A number a channel is drawn for the whole update in less time than image by image.
        draw = draw_for_local_samples if self.whole_channels else draw_sample_by_sample
        kept = draw(lambda rows: F.dropout(paddle.ones([rows, *shape], dtype="float32"), self.rate, axis=axis),
                    x.shape[0])
        return x * kept.astype(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, whole_channels={self.whole_channels}"
