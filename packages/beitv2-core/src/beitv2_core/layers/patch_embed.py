# SPDX-License-Identifier: Apache-2.0
"""Images to patch tokens.  Shape suffixes: `layers/__init__.py`."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.layout import transpose
from beitv2_core.layers.fast.linear import as_written, on_cpu


class PatchEmbed(nn.Layer):
    """Cut an image into non-overlapping patches and project each one.

    images: (B, C, h, w), h and w multiples of the patch -> (B, N, D), row by row.
    Raises ShapeError where the image is no whole number of patches or has another channel count.
    Source: official modeling_finetune.py, PatchEmbed.
    """

    def __init__(self, patch_size: tuple[int, int], in_chans: int, width: int):
        super().__init__()
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.proj = nn.Conv2D(in_chans, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        channels, height, width = images.shape[1:]
        if channels != self.in_chans:
            raise ShapeError(
                f"PatchEmbed: images have {channels} channels, the model was built for {self.in_chans}. "
                "Convert the images or set in_chans."
            )
        if height % self.patch_size[0] or width % self.patch_size[1]:
            raise ShapeError(
                f"PatchEmbed: an image of {height} x {width} is no whole number of patches of "
                f"{self.patch_size[0]} x {self.patch_size[1]}. Resize or pad it to multiples of the patch size."
            )
        if on_cpu(images) and images.dtype == paddle.float32 and as_written(self.proj, nn.Conv2D) and onednn.usable():
            return self._by_a_product(images)
        return self.proj(images).flatten(2).transpose([0, 2, 1])

    def _by_a_product(self, images: paddle.Tensor) -> paddle.Tensor:
        """The same sums: Paddle's CPU convolution and its bias take three times as long."""
        (high, wide), (batch, channels, height, width) = self.patch_size, images.shape
        cut = images.reshape([batch, channels, height // high, high, width // wide, wide])
        patches_BNC = transpose(cut, [0, 2, 4, 1, 3, 5]).reshape([batch, -1, channels * high * wide])
        weight_DC = self.proj.weight.reshape([-1, channels * high * wide])
        return F.linear(patches_BNC, weight_DC.transpose([1, 0]), self.proj.bias)
