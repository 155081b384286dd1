# SPDX-License-Identifier: Apache-2.0
"""Four maps of strides 4, 8, 16 and 32 from maps of one stride."""

from __future__ import annotations

from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers.init import kaiming_uniform_default
from beitv2_seg.model.norm import batch_norm


def pyramid_levels(patch_size: int, width: int) -> list[nn.Layer]:
    """The layers fpn1 .. fpn4: each takes a map (B, width, H / patch, W / patch) to stride 4, 8, 16 or 32.

    Raises ShapeError for a patch other than 8 or 16.  Source: official backbone/beit.py, BEiT.__init__.
    """
    if patch_size == 16:
        levels: list[nn.Layer] = [
            nn.Sequential(_double(width), batch_norm(width), nn.GELU(), _double(width)),
            nn.Sequential(_double(width)),
            nn.Identity(),
            nn.MaxPool2D(2, 2),
        ]
    elif patch_size == 8:
        levels = [nn.Sequential(_double(width)), nn.Identity(), nn.Sequential(nn.MaxPool2D(2, 2)),
                  nn.Sequential(nn.MaxPool2D(4, 4))]
    else:
        raise ShapeError(f"pyramid_levels: patch_size is {patch_size}; expected 8 or 16, the sizes for which the "
                         "four strides 4, 8, 16, 32 are defined.")
    return levels


def _double(width: int) -> nn.Layer:
    layer = nn.Conv2DTranspose(width, width, 2, 2)
    kaiming_uniform_default(layer)
    return layer
