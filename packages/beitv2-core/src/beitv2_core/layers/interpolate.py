# SPDX-License-Identifier: Apache-2.0
"""Bicubic resizing with PyTorch's arithmetic, as two small matrix products.

Paddle's own `interpolate` samples by the ratio of the sizes; the official code passes `scale_factor`, whose value, not
the resulting size, decides the sampling grid.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import paddle

from beitv2_core.errors import ShapeError

_Floats = npt.NDArray[np.float64]
_A = -0.75  # PyTorch's cubic coefficient; other libraries use -0.5


@functools.lru_cache(maxsize=64)  # a teacher that reads images one by one would spend a tenth of its time here
def bicubic_matrix(in_size: int, out_size: int, scale: float | None = None) -> _Floats:
    """Weights (out_size, in_size), float64, of one axis: every row sums to 1; taps beyond the border repeat it.

    The array is kept and read-only.

    `scale`: output pixels per input pixel on the sampling grid, out_size / in_size when None.  A position table resized
    by the official code has scale (n + 0.1) / sqrt(N), which is not the ratio of the sizes and moves the samples.
    Source: torch.nn.functional.interpolate(mode="bicubic", align_corners=False, recompute_scale_factor=None).
    """
    step = in_size / out_size if scale is None else 1.0 / scale
    place = step * (np.arange(out_size) + 0.5) - 0.5
    first = np.floor(place).astype(np.int64)
    t = place - first
    far, near = t + 1, 1 - t

    def outer(d: _Floats) -> _Floats:  # distance 1 .. 2
        weights: _Floats = ((d - 5) * d + 8) * d * _A - 4 * _A
        return weights

    def inner(d: _Floats) -> _Floats:  # distance 0 .. 1
        weights: _Floats = ((_A + 2) * d - (_A + 3)) * d * d + 1
        return weights

    matrix = np.zeros((out_size, in_size))
    rows = np.arange(out_size)
    for offset, weight in zip((-1, 0, 1, 2), (outer(far), inner(t), inner(near), outer(near + 1))):
        np.add.at(matrix, (rows, np.clip(first + offset, 0, in_size - 1)), weight)
    matrix.flags.writeable = False
    return matrix


def bicubic_resize(x: paddle.Tensor, out_size: Sequence[int],
                   scale: float | Sequence[float] | None = None) -> paddle.Tensor:
    """Resize a table (h, w, C) or a batch (B, C, h, w) to `out_size` = (rows, columns), as PyTorch does, with gradient.

    `scale`: see `bicubic_matrix`, one number or (rows, columns).  Returns (i, j, C) or (B, C, i, j) in the dtype that
    came; no anti-aliasing; values may overshoot.  Raises ShapeError for another rank or an empty size.
    Source: torch.nn.functional.interpolate(mode="bicubic"); official modeling_finetune.py, interpolate_pos_encoding.
    """
    rows, columns = (int(n) for n in out_size)
    if x.ndim not in (3, 4) or rows < 1 or columns < 1:
        raise ShapeError(
            f"bicubic_resize: cannot resize shape {list(x.shape)} to {rows} x {columns}. "
            "Give a table (h, w, C) or a batch (B, C, h, w) and at least one row and column."
        )
    if x.ndim == 3:
        return bicubic_resize(x.transpose([2, 0, 1]).unsqueeze(0), out_size, scale)[0].transpose([1, 2, 0])
    height, width = x.shape[2:]
    by_row, by_column = (scale, scale) if scale is None or isinstance(scale, (int, float)) else scale
    left_ih = paddle.to_tensor(bicubic_matrix(height, rows, by_row).astype(np.float32))
    right_wj = paddle.to_tensor(bicubic_matrix(width, columns, by_column).T.astype(np.float32))
    wide_BChj = paddle.matmul(x.astype("float32"), right_wj)
    return paddle.matmul(left_ih, wide_BChj).astype(x.dtype)
