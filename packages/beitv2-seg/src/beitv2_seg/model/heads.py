# SPDX-License-Identifier: Apache-2.0
"""The two heads of the recipe: UPerHead on four maps, FCNHead on the third.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.layers.dropout import Dropout
from beitv2_core.layers.fast.linear import uses_cpu_gradients
from beitv2_core.layers.fast.products import mixed_precision
from beitv2_seg.model.bilinear import linear_matrix
from beitv2_seg.model.convolution import Conv3x3
from beitv2_seg.model.norm import batch_norm


class ConvModule(nn.Layer):
    """Convolution without bias, batch norm, ReLU; size kept.  Source: mmcv 1.3 ConvModule."""

    def __init__(self, in_channels: int, channels: int, kernel: int):
        super().__init__()
        # mmcv initialises with fan_out, which Paddle's initialiser takes as a number.
        fan_out = nn.initializer.KaimingNormal(fan_in=channels * kernel**2)
        if kernel == 3:
            self.conv: nn.Layer = Conv3x3(in_channels, channels, weight_attr=fan_out)
        else:
            self.conv = nn.Conv2D(in_channels, channels, kernel, padding=kernel // 2, weight_attr=fan_out,
                                  bias_attr=False)
        self.bn = batch_norm(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.bn(self.conv(x)))


def resize(x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """Bilinear to (height, width), corners not aligned: every use in the recipe.

    In training on the CPU two products: the gradient of Paddle's own interpolation runs in one thread.
    """
    if uses_cpu_gradients(x):
        by_row = paddle.to_tensor(linear_matrix(x.shape[2], size[0]))
        by_column = paddle.to_tensor(linear_matrix(x.shape[3], size[1]))
        return paddle.matmul(by_row, paddle.matmul(x, by_column, transpose_y=True))
    return F.interpolate(x, list(size), mode="bilinear", align_corners=False)


def average_matrix(size: int, bins: int) -> np.ndarray:
    """Weights (bins, size), float64, of adaptive average pooling along one axis; neighbouring bins may overlap.

    Source: torch.nn.AdaptiveAvgPool2d: bin i covers floor(i * size / bins) .. ceil((i + 1) * size / bins).
    """
    first = np.arange(bins) * size // bins
    last = -(-(np.arange(bins) + 1) * size // bins)
    place = np.arange(size)
    inside = (place >= first[:, None]) & (place < last[:, None])
    return inside / inside.sum(1, keepdims=True)


class AdaptiveAveragePool(nn.Layer):
    """x (B, C, H, W) -> (B, C, bins, bins), `nn.AdaptiveAvgPool2D(bins)` as one product with a constant matrix.

    A product in training too, so that what is trained and measured is what is exported: ONNX knows no adaptive pooling,
    and paddle2onnx writes AveragePool of one kernel size, which is another map where H or W is no multiple of `bins`
    (16 to 6: the logits of a 512 px image differed by 0.13).  The mean over a box is linear in its pixels, so both
    forms, and their gradients, differ by rounding only (parity: upernet_heads).
    """

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        height, width = x.shape[2:]
        boxes = np.kron(average_matrix(height, self.bins), average_matrix(width, self.bins))
        weights = paddle.to_tensor(boxes.T.astype(np.float32))
        with mixed_precision("off"):  # a mean over many pixels: float32 under mixed precision
            pooled = paddle.matmul(x.astype("float32").flatten(2), weights)
        return pooled.reshape([0, 0, self.bins, self.bins]).astype(x.dtype)


class _Classifier(nn.Layer):
    """Dropout of whole channels and a 1 x 1 convolution to the classes."""

    def __init__(self, channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.dropout = Dropout(dropout, whole_channels=True)
        self.conv_seg = nn.Conv2D(channels, num_classes, 1, weight_attr=nn.initializer.Normal(std=0.01))

    def classify(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits (B, C, H, W)."""
        return self.conv_seg(self.dropout(x))


class UPerHead(_Classifier):
    """Unified perceptual parsing head (arXiv 1807.10221): four maps of strides 4 .. 32 -> logits at stride 4.

    in_channels: of the four maps; pool_scales: bins of the pooling pyramid on the coarsest map.
    Source: mmsegmentation 0.11, models/decode_heads/uper_head.py, align_corners False.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, num_classes: int, *,
                 pool_scales: Sequence[int] = (1, 2, 3, 6), dropout: float = 0.1):
        super().__init__(channels, num_classes, dropout)
        last = in_channels[-1]
        self.psp_modules = nn.LayerList([
            nn.Sequential(AdaptiveAveragePool(bins), ConvModule(last, channels, 1)) for bins in pool_scales])
        self.bottleneck = ConvModule(last + len(pool_scales) * channels, channels, 3)
        self.lateral_convs = nn.LayerList([ConvModule(width, channels, 1) for width in in_channels[:-1]])
        self.fpn_convs = nn.LayerList([ConvModule(channels, channels, 3) for _ in in_channels[:-1]])
        self.fpn_bottleneck = ConvModule(len(in_channels) * channels, channels, 3)

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """Logits (B, C, H / 4, W / 4)."""
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, maps)]
        laterals.append(self._pool(maps[-1]))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1].shape[2:])
        levels = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals)] + [laterals[-1]]
        size = levels[0].shape[2:]
        levels = [levels[0]] + [resize(level, size) for level in levels[1:]]
        return self.classify(self.fpn_bottleneck(paddle.concat(levels, axis=1)))

    def _pool(self, x: paddle.Tensor) -> paddle.Tensor:
        pooled = [resize(module(x), x.shape[2:]) for module in self.psp_modules]
        return self.bottleneck(paddle.concat([x, *pooled], axis=1))


class FCNHead(_Classifier):
    """One 3 x 3 convolution on one map, then the classes.  Source: mmsegmentation 0.11, decode_heads/fcn_head.py."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, dropout: float = 0.1):
        super().__init__(channels, num_classes, dropout)
        self.convs = nn.Sequential(ConvModule(in_channels, channels, 3))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits at the map's own resolution."""
        return self.classify(self.convs(x))

