# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation whose running variance is the unbiased one, as PyTorch keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

from beitv2_core.layers.collective import differentiable_sum


class BatchNorm2D(nn.BatchNorm2D):
    """x (B, C, H, W) -> the same shape.  Paddle's own layer keeps the biased variance (pixels instead of pixels - 1).

    In training, mean and variance are those of the batches of all processes, which must have the same shape
    (torch.nn.SyncBatchNorm).

    Departs: a single value per channel (one image, one pooled cell) is normalised to the bias; PyTorch raises.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Normalise; in training also update the running statistics."""
        # Not super(): Paddle's export would call this method again and again.
        if not self.training:
            return nn.BatchNorm2D.forward(self, x)
        if paddle.distributed.get_world_size() > 1:
            return _train_together(self, x)
        return _train(self, nn.BatchNorm2D.forward, x)


class SyncBatchNorm(nn.SyncBatchNorm):
    """The same over the images of all processes."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Normalise; in training also update the running statistics."""
        if not self.training:
            return nn.SyncBatchNorm.forward(self, x)
        return _train(self, nn.SyncBatchNorm.forward, x, processes=paddle.distributed.get_world_size())


def _train(layer: Any, forward: Callable[..., paddle.Tensor], x: paddle.Tensor, processes: int = 1) -> paddle.Tensor:
    """The training forward; afterwards the batch's share of the running variance is made unbiased."""
    before = layer._variance.clone()
    out = forward(layer, x)
    count = processes * x.shape[0] * x.shape[2] * x.shape[3]
    if count > 1:
        with paddle.no_grad():
            kept = before * layer._momentum
            layer._variance.set_value(kept + (layer._variance - kept) * (count / (count - 1)))
    return out


def _train_together(layer: Any, x: paddle.Tensor) -> paddle.Tensor:
    """The training forward over the batches of all processes, in two passes as Paddle's kernel for one process."""
    count = paddle.distributed.get_world_size() * x.shape[0] * x.shape[2] * x.shape[3]
    mean = differentiable_sum(x.sum([0, 2, 3])) / count
    centred = x - mean.reshape([1, -1, 1, 1])
    variance = differentiable_sum(paddle.square(centred).sum([0, 2, 3])) / count
    with paddle.no_grad():
        momentum, unbiased = layer._momentum, variance * (count / max(count - 1, 1))
        layer._mean.set_value(layer._mean * momentum + mean * (1 - momentum))
        layer._variance.set_value(layer._variance * momentum + unbiased * (1 - momentum))
    scale = layer.weight * paddle.rsqrt(variance + layer._epsilon)
    return centred * scale.reshape([1, -1, 1, 1]) + layer.bias.reshape([1, -1, 1, 1])


def batch_norm(channels: int) -> nn.Layer:
    """The layer for where we are: Paddle's kernel for several processes exists for GPUs only."""
    if paddle.device.get_device().startswith("gpu") and paddle.distributed.get_world_size() > 1:
        return SyncBatchNorm(channels)
    return BatchNorm2D(channels)
