# SPDX-License-Identifier: Apache-2.0
"""Images to patch tokens."""

from __future__ import annotations

import paddle
from paddle import nn

from beitv2_core.errors import ShapeError


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
        return self.proj(images).flatten(2).transpose([0, 2, 1])
