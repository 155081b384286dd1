"""Batch normalisation whose running variance is the unbiased one, as PyTorch keeps it."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn


class _Unbiased:
    """After a training forward: running variance += momentum * (unbiased - biased) batch variance."""

    processes = 1

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training or x.numel() == 0:  # type: ignore[attr-defined]
            return super().forward(x)  # type: ignore[misc]
        before = self._variance.clone()  # type: ignore[attr-defined]
        out = super().forward(x)  # type: ignore[misc]
        count = self.processes * x.shape[0] * x.shape[2] * x.shape[3]
        if count > 1:
            with paddle.no_grad():
                kept = before * self._momentum  # type: ignore[attr-defined]
                biased = self._variance - kept  # type: ignore[attr-defined]
                self._variance.set_value(kept + biased * (count / (count - 1)))  # type: ignore[attr-defined]
        return out


class BatchNorm2D(_Unbiased, nn.BatchNorm2D):
    """x (B, C, H, W) -> the same shape.  Paddle's own layer keeps the biased variance (pixels instead of pixels - 1).

    Departs: a single value per channel (one picture, one pooled cell) is normalised to the bias; PyTorch raises.
    """


class SyncBatchNorm(_Unbiased, nn.SyncBatchNorm):
    """The same over the pictures of all processes."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.processes = paddle.distributed.get_world_size()


def batch_norm(channels: int) -> nn.Layer:
    """The layer for where we are: synchronised with several processes on GPUs (the CPU has no such kernel)."""
    if paddle.device.get_device().startswith("gpu") and paddle.distributed.get_world_size() > 1:
        return SyncBatchNorm(channels)
    return BatchNorm2D(channels)
