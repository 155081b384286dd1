# SPDX-License-Identifier: Apache-2.0
"""Mean and standard deviation of ImageNet's colours (red, green, blue), of values in [0, 1]."""

from __future__ import annotations

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
