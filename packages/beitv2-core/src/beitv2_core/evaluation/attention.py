# SPDX-License-Identifier: Apache-2.0
"""What the class token looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from ..data.views.transforms import normalise


def class_attention(backbone: Any, images: np.ndarray, block: int | None = None) -> np.ndarray:
    """The class token's attention to every patch, float32 (B, heads, rows, columns), of block `block`, counted from 1.

    images: float32 (B, 3, H, W) in [0, 1]; block: None for the last.  A map sums to what the class token does not give
    to itself.  Raises ShapeError for a block that is not there.
    """
    size, patch = images.shape[2:], backbone.patch_size
    with paddle.no_grad():
        maps_BHTT = backbone.attention(paddle.to_tensor(normalise(images)), block).astype("float32").numpy()
    return maps_BHTT[:, :, 0, 1:].reshape(*maps_BHTT.shape[:2], size[0] // patch[0], size[1] // patch[1])
