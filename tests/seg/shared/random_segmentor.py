# SPDX-License-Identifier: Apache-2.0
"""A small segmentor with random weights that tells its classes apart."""

from __future__ import annotations

import numpy as np
import paddle

from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.segmentor import BEiTv2UPerNet

CLASSES = ("sky", "tree", "car")


def segmentor(image_size=64, patch_size=8, width=12) -> BEiTv2UPerNet:
    """Small, with weights and statistics that reach every part of the logits."""
    paddle.seed(0)
    backbone = BEiTv2(width=width, depth=4, num_heads=2, image_size=image_size, patch_size=patch_size)
    model = BEiTv2UPerNet(len(CLASSES), backbone, channels=6, aux_channels=4)
    for name, parameter in model.named_parameters():
        if name.endswith("_variance"):
            parameter.set_value(paddle.rand(parameter.shape) + 0.5)
        elif parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * (2.0 / np.prod(parameter.shape[1:])) ** 0.5)
    model.eval()
    size = backbone.image_size
    with paddle.no_grad():
        means = model(paddle.randn([1, 3, *size]))[0].mean([0, 2, 3])
    bias = model.decode_head.conv_seg.bias
    bias.set_value(bias - means)  # every class wins somewhere
    return model
