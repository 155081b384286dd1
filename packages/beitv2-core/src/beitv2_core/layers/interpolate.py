"""Bicubic resizing of position tables with PyTorch's sampling grid.

Paddle's own `interpolate` samples by the ratio of the sizes; the official code passes `scale_factor`, whose value, not
the resulting size, decides the grid.  A separable product with two small weight matrices is exact and differentiable.
"""

from __future__ import annotations

import numpy as np
import paddle


def bicubic_matrix(old: int, new: int, scale: float | None = None) -> np.ndarray:
    """Weights (new, old) of torch's bicubic `interpolate` (align_corners False, a = -0.75, border replicated).

    `scale`: the `scale_factor` given to torch; None means new / old.  Source: ATen UpSampleBicubic2d.
    """
    step = 1.0 / scale if scale is not None else old / new
    matrix = np.zeros((new, old), dtype=np.float64)
    for i in range(new):
        centre = step * (i + 0.5) - 0.5
        first = int(np.floor(centre))
        t = centre - first
        for offset, weight in zip(range(-1, 3), _cubic(t)):
            matrix[i, min(max(first + offset, 0), old - 1)] += weight
    return matrix.astype(np.float32)


def bicubic_resize(x_BCHW: paddle.Tensor, size: tuple[int, int],
                   scale: tuple[float, float] | None = None) -> paddle.Tensor:
    """(B, C, H, W) -> (B, C, *size), as torch's bicubic `interpolate` with `scale_factor=scale` (or `size=size`)."""
    scales = scale if scale is not None else (None, None)
    rows = paddle.to_tensor(bicubic_matrix(x_BCHW.shape[2], size[0], scales[0]))
    columns = paddle.to_tensor(bicubic_matrix(x_BCHW.shape[3], size[1], scales[1]))
    return paddle.matmul(paddle.matmul(rows, x_BCHW), columns, transpose_y=True)


def _cubic(t: float, a: float = -0.75) -> tuple[float, float, float, float]:
    def near(x: float) -> float:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: float) -> float:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)
