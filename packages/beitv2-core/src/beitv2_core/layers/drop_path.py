# SPDX-License-Identifier: Apache-2.0
"""Stochastic depth."""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.layers.draws import draw_for_local_samples


class DropPath(nn.Layer):
    """Zero whole samples of a residual branch with probability `rate` and rescale the rest (training only).

    x: (B, ...).  A sample's draw does not depend on the number of processes or micro-batches.
    Source: timm 0.4.12 `drop_path`, used by official modeling_finetune.py, DropPath.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = float(rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        factors = self.factors(x)
        return x if factors is None else x * factors

    def factors(self, x: paddle.Tensor) -> paddle.Tensor | None:
        """A new draw of what every sample of x is multiplied by, 0 or 1 / (1 - rate), as (B, 1, ...); None: by 1."""
        if self.rate == 0.0 or not self.training:
            return None
        keep = 1.0 - self.rate
        ones = [1] * (x.ndim - 1)
        drawn = draw_for_local_samples(lambda rows: paddle.rand([rows, *ones], dtype="float32"), x.shape[0])
        return paddle.floor(keep + drawn).astype(x.dtype) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
