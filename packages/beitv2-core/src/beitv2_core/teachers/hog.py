# SPDX-License-Identifier: Apache-2.0
"""Gradient-orientation histograms as a teacher that needs no weights.

Shape suffixes: B batch, N patches, H and W pixels, O orientations, C channels of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F

from beitv2_core.errors import ConfigError
from beitv2_core.pixels.size import pair
from beitv2_core.teachers.base import Teacher


class HOGTeacher(Teacher):
    """Histograms of gradient orientations of every patch and a ring around it, with its colour and a constant.

    A patch is seen as 2 x 2 cells; `context` adds half a patch on every side, 4 x 4 cells in all.  Every cell holds
    `num_orientations` unsigned directions; each pixel votes for those near its gradient.  The histogram is divided by
    sqrt(energy + floor ** 2), and `constant` is appended: a patch without contrast then has a target of its own instead
    of the direction of its noise, whatever the cosine loss makes of its length.  `colour`: weight of the mean colour of
    the patch's own cells relative to the image's mean, 0 for none; small, or the codes describe nothing but colour.
    image_size, patch_size: pixels, the patch even.  Raises ConfigError for an odd patch or impossible settings.
    Source: Dalal and Triggs 2005; as a target, MaskFeat (arXiv 2112.09133).  Departs: the constant and the colours.
    """

    def __init__(self, *, image_size: int | Sequence[int] = 32, patch_size: int | Sequence[int] = 8,
                 num_orientations: int = 6, context: bool = True, colour: float = 0.3, constant: float = 0.5,
                 floor: float = 0.2):
        height, width = pair(patch_size)
        if height % 2 or width % 2:
            raise ConfigError(
                f"teacher 'hog': patch_size {height} x {width} cannot be cut into 2 x 2 cells. Choose even numbers."
            )
        if num_orientations < 3 or floor <= 0:
            raise ConfigError(
                f"teacher 'hog': num_orientations={num_orientations}, floor={floor}; expected at least 3 and above 0."
            )
        cells = 16 if context else 4
        super().__init__(image_size=image_size, patch_size=patch_size,
                         width=cells * num_orientations + (12 if colour else 0) + 1)
        self.num_orientations, self.context, self.colour = num_orientations, context, colour
        self.constant, self.floor = constant, floor
        self.register_buffer("directions", _directions(num_orientations), persistable=False)
        self.freeze()

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        cell = (self.patch_size[0] // 2, self.patch_size[1] // 2)
        hog_BNC = self._windows(F.avg_pool2d(self._votes(images), cell, cell), self.context)
        energy = (hog_BNC * hog_BNC).sum(-1, keepdim=True)
        parts = [hog_BNC / paddle.sqrt(energy + self.floor ** 2)]
        if self.colour:
            relative = images - images.mean([2, 3], keepdim=True)
            parts.append(self.colour * self._windows(F.avg_pool2d(relative, cell, cell), False))
        parts.append(paddle.full_like(energy, self.constant))
        return paddle.concat(parts, axis=-1)

    def _votes(self, images: paddle.Tensor) -> paddle.Tensor:
        """Votes (B, O, H, W) of every pixel for the directions near its gradient, by the gradient's length."""
        padded = F.pad(images, [1, 1, 1, 1], mode="replicate")
        dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        # Doubled angle, square length: the gradient the three colours agree on (structure tensor, Di Zenzo 1986).
        cos, sin = _sum_colours(dx * dx - dy * dy), 2 * _sum_colours(dx * dy)
        square = paddle.sqrt(cos * cos + sin * sin)
        length = paddle.sqrt(square)
        doubled = paddle.concat([cos, sin], axis=1) / (length + 1e-6)
        return F.relu(F.conv2d(paddle.concat([doubled, length], axis=1), self.directions))

    def _windows(self, cells: paddle.Tensor, context: bool) -> paddle.Tensor:
        """Cells (B, O, 2 gh, 2 gw) gathered per patch (B, N, O * cells of its window); outside the image: zeros."""
        kernel, padding = (4, 1) if context else (2, 0)
        return F.unfold(cells, kernel, strides=2, paddings=padding).transpose([0, 2, 1])


def _sum_colours(images: paddle.Tensor) -> paddle.Tensor:
    red, green, blue = paddle.split(images, 3, axis=1)  # three sums: Paddle's reduction over a short axis is slow
    return red + green + blue


def _directions(count: int) -> paddle.Tensor:
    """Weights (O, 3, 1, 1) from (length * cos 2a, length * sin 2a, length) of a gradient to its vote for direction b.

    The vote is length * (cos(2a - b) - cos(c)) / (1 - cos(c)), negative beyond c, the distance of neighbours: a smooth
    triangle, and one small product where binning by angle costs ten passes over (B, O, H, W).
    """
    angles = [2 * math.pi * i / count for i in range(count)]
    edge = math.cos(2 * math.pi / count)
    rows = [[math.cos(b), math.sin(b), -edge] for b in angles]
    return paddle.to_tensor(rows, dtype="float32").reshape([count, 3, 1, 1]) / (1 - edge)


def build_hog(*, weights: str | None = None, sha256: str | None = None, image_size: int | Sequence[int] = 32,
              patch_size: int | Sequence[int] = 8, num_orientations: int = 6, context: bool = True,
              colour: float = 0.3, constant: float = 0.5, floor: float = 0.2) -> HOGTeacher:
    """The HOG teacher; ConfigError where weights are given, since it has none."""
    if weights or sha256:
        raise ConfigError("teacher 'hog': weights were given, but it has none. Remove weights and sha256.")
    return HOGTeacher(image_size=image_size, patch_size=patch_size, num_orientations=num_orientations, context=context,
                      colour=colour, constant=constant, floor=floor)
