"""Stochastic depth."""

from __future__ import annotations

import paddle
from paddle import nn


class DropPath(nn.Layer):
    """Zero whole samples of a residual branch with probability `rate` and rescale the rest (training only).

    x: (B, ...).  Source: timm 0.4.12 `drop_path`, used by official modeling_finetune.py, DropPath.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = float(rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        kept = paddle.floor(keep + paddle.rand(shape, dtype="float32")).astype(x.dtype)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
