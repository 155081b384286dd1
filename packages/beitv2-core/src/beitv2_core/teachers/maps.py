# SPDX-License-Identifier: Apache-2.0
"""A teacher's feature map brought to the grid of the tokenizer's patches.

Shape suffixes: B batch, C channels of a feature, h and w rows and columns of the map.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from beitv2_core.errors import ConfigError

Size = tuple[int, int]
FITS = ("exact", "pool", "repeat")


def check_fit(teacher: str, found: Size, wanted: Size, fit: str, advice: str) -> None:
    """ConfigError where a map of `found` rows and columns does not give the grid `wanted` by `fit`.

    fit: "exact": both are equal; "pool": the map is finer by whole factors, and its places are averaged; "repeat": it
    is coarser by whole factors, and its places are repeated.  advice: what to set, in words, for the message.
    """
    if fit not in FITS:
        raise ConfigError(f"teacher {teacher!r}: fit is {fit!r}; expected one of {', '.join(FITS)}.")
    if found == wanted:
        return
    ways = [name for name, big, small in (("pool", found, wanted), ("repeat", wanted, found))
            if not any(b % s for b, s in zip(big, small))]
    if fit in ways:
        return
    instead = [advice, *(f"teacher.options.fit={name} ({_MEANINGS[name]})" for name in ways)]
    raise ConfigError(f"teacher {teacher!r}: it gives a map of {found[0]} x {found[1]} features for an image, the "
                      f"encoder has {wanted[0]} x {wanted[1]} patches, and fit is {fit!r}. "
                      f"{', or '.join(instead)}; or change data.image_size or encoder.patch_size.")


_MEANINGS = {"pool": "averages neighbours", "repeat": "gives neighbouring patches one feature"}


def fit_map(map_BChw: paddle.Tensor, grid: Size) -> paddle.Tensor:
    """A map (B, C, h, w) averaged over, or repeated to, (B, C, *grid); the sizes went through `check_fit`."""
    found = (int(map_BChw.shape[2]), int(map_BChw.shape[3]))
    if found == tuple(grid):
        return map_BChw
    if found[0] >= grid[0] and found[1] >= grid[1]:
        window = [found[0] // grid[0], found[1] // grid[1]]
        return F.avg_pool2d(map_BChw, window, window)
    return map_BChw.repeat_interleave(grid[0] // found[0], 2).repeat_interleave(grid[1] // found[1], 3)
