# SPDX-License-Identifier: Apache-2.0
"""Positions of the published teachers: tables resized, and angles by which queries and keys are turned.

Shape suffixes: N patches, D width, E width of a head.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from beitv2_core.layers.interpolate import bicubic_resize

_Floats32 = npt.NDArray[np.float32]
_A = -0.5  # the cubic coefficient of PyTorch's anti-aliased resizing; without it -0.75 (`layers.interpolate`)


def resized_table(table_1ND: paddle.Tensor, grid: tuple[int, int], *, antialias: bool) -> paddle.Tensor:
    """A position table (1, n * n, D) of a square grid for another grid: (1, rows * columns, D), as it is for its own.

    Source: torch.nn.functional.interpolate(size=grid, mode="bicubic", align_corners=False, antialias=antialias).
    """
    side = math.isqrt(table_1ND.shape[1])
    if grid == (side, side):
        return table_1ND
    table = table_1ND.reshape([side, side, -1])
    if not antialias:
        return bicubic_resize(table, grid).flatten(0, 1).unsqueeze(0)
    rows, columns = (paddle.to_tensor(antialiased_matrix(side, size)) for size in grid)
    wide = paddle.matmul(columns, table)
    return paddle.matmul(rows, wide.flatten(1)).reshape([1, grid[0] * grid[1], -1])


@functools.lru_cache(maxsize=16)
def antialiased_matrix(in_size: int, out_size: int) -> _Floats32:
    """Weights (out_size, in_size) of one axis; every row sums to 1, taps beyond the border are left out.

    Source: torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=True).
    """
    step = in_size / out_size
    stretch = max(step, 1.0)
    centre = step * (np.arange(out_size) + 0.5)
    first = np.maximum((centre - 2 * stretch + 0.5).astype(np.int64), 0)[:, None]
    end = np.minimum((centre + 2 * stretch + 0.5).astype(np.int64), in_size)[:, None]
    tap = np.arange(in_size)[None]
    d = np.abs(tap - centre[:, None] + 0.5) / stretch
    near, far = ((_A + 2) * d - (_A + 3)) * d * d + 1, ((d - 5) * d + 8) * d * _A - 4 * _A
    weights = np.where(d < 1, near, np.where(d < 2, far, 0.0)) * ((tap >= first) & (tap < end))
    matrix: _Floats32 = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return matrix


@functools.lru_cache(maxsize=16)
def centred_angles(grid: tuple[int, int], head_width: int) -> _Floats32:
    """Angles (N, E) of patches whose centres are at -1 .. 1 on both axes; the second half repeats the first.

    Source: DINOv3 (arXiv 2508.10104); transformers modeling_dinov3_vit.py, DINOv3ViTRopePositionEmbedding (base 100).
    """
    centres = [(np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) * 2 - 1 for size in grid]
    places_N2 = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2)
    periods = np.float32(100.0) ** (np.arange(head_width // 4, dtype=np.float32) * np.float32(4 / head_width))
    angles = np.float32(2 * math.pi) * places_N2[:, :, None] * (1 / periods)
    whole: _Floats32 = np.tile(angles.reshape(len(places_N2), -1), 2).astype(np.float32)
    return whole


@functools.lru_cache(maxsize=16)
def counted_angles(grid: tuple[int, int], head_width: int) -> _Floats32:
    """Angles (N, E) of patches counted from 0 to 16 on both axes, whatever the grid; neighbours share one.

    Source: EVA-02 (arXiv 2303.11331); timm layers/pos_embed_sincos.py, build_rotary_pos_embed (temperature 10000,
    ref_feat_shape 16 x 16).
    """
    counts = [np.arange(size, dtype=np.float32) / np.float32(size) * np.float32(16) for size in grid]
    places_N2 = np.stack(np.meshgrid(*counts, indexing="ij"), -1).reshape(-1, 2)
    bands = head_width // 4
    frequencies = 1 / np.float32(10000.0) ** (np.arange(bands, dtype=np.float32) / np.float32(bands))
    angles = places_N2[:, :, None] * frequencies
    whole: _Floats32 = np.repeat(angles.reshape(len(places_N2), -1), 2, axis=1).astype(np.float32)
    return whole


def _turn_halves(x: paddle.Tensor) -> paddle.Tensor:
    """A quarter turn in the planes of channels i and i + E / 2."""
    first, second = paddle.split(x, 2, axis=-1)
    return paddle.concat([-second, first], axis=-1)


def _turn_neighbours(x: paddle.Tensor) -> paddle.Tensor:
    """A quarter turn in the planes of channels 2 i and 2 i + 1."""
    return paddle.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)


class Rotation(NamedTuple):
    """A rotary position: the angles (N, E) of a grid, and the quarter turn of the planes they turn in."""

    angles: Callable[[tuple[int, int], int], _Floats32]
    rotate: Callable[[paddle.Tensor], paddle.Tensor]


class Turn:
    """Turns queries or keys (B, H, T, E) of the patches of a grid, the last N tokens; leading ones have no position."""

    def __init__(self, rotation: Rotation, grid: tuple[int, int], head_width: int):
        angles_NE = paddle.to_tensor(rotation.angles(grid, head_width))
        self.cos_NE, self.sin_NE, self.rotate = paddle.cos(angles_NE), paddle.sin(angles_NE), rotation.rotate

    def __call__(self, x_BHTE: paddle.Tensor) -> paddle.Tensor:
        leading = x_BHTE.shape[2] - self.cos_NE.shape[0]
        patches = x_BHTE[:, :, leading:]
        turned = patches * self.cos_NE + self.rotate(patches) * self.sin_NE
        return paddle.concat([x_BHTE[:, :, :leading], turned], axis=2)


ROTATIONS = {"centred": Rotation(centred_angles, _turn_halves), "counted": Rotation(counted_angles, _turn_neighbours)}
