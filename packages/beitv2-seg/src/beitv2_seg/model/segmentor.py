# SPDX-License-Identifier: Apache-2.0
"""Backbone and heads together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_seg.model.heads import FCNHead, UPerHead, resize


class BEiTv2UPerNet(nn.Layer):
    """UPerNet: images (B, 3, H, W) -> [logits] in eval mode, [logits, auxiliary logits] in training, at H x W.

    num_classes: number of classes; backbone: gives four maps and has `feat_channels`; channels: of UPerHead (768 base,
    1024 large); pool_scales: sides of the pooled maps of its pyramid; aux_channels: of FCNHead on the third map;
    dropout: share of channels left out before both classifiers; in_channels: channels of an image.
    Parameter names are mmsegmentation's (`decode_head.*`, `auxiliary_head.*`).
    Source: official semantic_segmentation/configs/_base_/models/upernet_beit.py; mmsegmentation 0.11, EncoderDecoder.
    """

    def __init__(self, num_classes: int, backbone: Any, *, channels: int = 768, aux_channels: int = 256,
                 pool_scales: Sequence[int] = (1, 2, 3, 6), dropout: float = 0.1, in_channels: int = 3):
        super().__init__()
        if num_classes < 2:
            raise ShapeError(f"BEiTv2UPerNet: num_classes is {num_classes}; expected at least 2.")
        self.num_classes = num_classes
        self.backbone = backbone
        widths = list(backbone.feat_channels)
        self.decode_head = UPerHead(widths, channels, num_classes, pool_scales=pool_scales, dropout=dropout)
        self.auxiliary_head = FCNHead(widths[2], aux_channels, num_classes, dropout=dropout)

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Logits (B, C, H, W), and in training those of the auxiliary head."""
        maps = self.backbone(images)
        logits = [self.decode_head(maps)]
        if self.training:
            logits.append(self.auxiliary_head(maps[2]))
        return [resize(part, images.shape[2:]) for part in logits]
