# SPDX-License-Identifier: Apache-2.0
"""What the class token looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle


def class_attention(backbone: Any, images: paddle.Tensor, block: int | None = None) -> np.ndarray:
    """The class token's attention to every patch, float32 (B, heads, rows, columns), of block `block`, counted from 1.

    images: as the backbone takes them, normalised; block: None for the last.  A map sums to what the class token does
    not give to itself.  Raises ShapeError for a block that is not there.
    """
    rows, columns = (pixels // patch for pixels, patch in zip(images.shape[2:], backbone.patch_size))
    maps_BHTT = backbone.attention(images, block).astype("float32").numpy()
    return maps_BHTT[:, :, 0, 1:].reshape(*maps_BHTT.shape[:2], rows, columns)
