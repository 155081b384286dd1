# SPDX-License-Identifier: Apache-2.0
"""Hide rectangles of patches, as BEiT does (official `masking_generator.py: MaskingGenerator`)."""

from __future__ import annotations

import math
import random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ATTEMPTS_PER_BLOCK = 10


class TwoGenerators(Protocol):
    """The two random generators a mask draws from (`beitv2_core.data.SampleRng` is one)."""

    @property
    def python(self) -> random.Random: ...

    @property
    def numpy(self) -> np.random.RandomState: ...


def check_grid(who: str, grid: tuple[int, int], num_masked: int) -> tuple[int, int]:
    """Return the grid as two ints; ValueError when it cannot hold `num_masked` hidden patches."""
    height, width = int(grid[0]), int(grid[1])
    if height < 1 or width < 1:
        raise ValueError(f"{who}: grid is {height} x {width}, expected at least 1 x 1 patches.")
    if not 0 <= num_masked <= height * width:
        raise ValueError(
            f"{who}: num_masked is {num_masked}, but a grid of {height} x {width} has {height * width} patches. "
            f"Give a number between 0 and {height * width}."
        )
    return height, width


class BlockwiseMasking:
    """Hide exactly `num_masked` patches in blocks of at least `min_block` patches (paper: "block-wise masking").

    grid: (rows, columns) in patches. A block has at most `max_block` patches (default `num_masked`) and an aspect
    ratio between `min_aspect` and `1 / min_aspect`. Blocks may overlap and always leave one row and one column free.
    Raises ValueError when the numbers cannot be met. Equal to the official generator draw by draw: block sizes and
    places come from `rng.python`, the final top-up or trim to exactly `num_masked` from `rng.numpy`.
    Source: official `beit2/masking_generator.py: MaskingGenerator`.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        num_masked: int,
        min_block: int = 4,
        max_block: int | None = None,
        min_aspect: float = 0.3,
    ) -> None:
        self.grid = check_grid("BlockwiseMasking", grid, num_masked)
        self.num_masked = num_masked
        self.min_block = min_block
        self.max_block = num_masked if max_block is None else max_block
        if not 0 < min_aspect <= 1:
            raise ValueError(f"BlockwiseMasking: min_aspect is {min_aspect}, expected a number in (0, 1].")
        if min_block < 1 or (num_masked and min_block > min(self.max_block, num_masked)):
            raise ValueError(
                f"BlockwiseMasking: blocks of {min_block} to {self.max_block} patches were asked for, {num_masked} are "
                "hidden; min_block must be at least 1 and not larger than max_block and num_masked."
            )
        self.log_aspect = (math.log(min_aspect), math.log(1 / min_aspect))

    def __repr__(self) -> str:
        return (
            f"BlockwiseMasking({self.grid[0]} x {self.grid[1]}, {self.num_masked} hidden, "
            f"blocks of {self.min_block} to {self.max_block})"
        )

    def __call__(self, rng: TwoGenerators) -> NDArray[Any]:
        """Draw one mask: bool (rows, columns) with exactly `num_masked` true."""
        mask = np.zeros(self.grid, dtype=bool)
        hidden = 0
        while hidden < self.num_masked:
            added = self._add_block(mask, min(self.num_masked - hidden, self.max_block), rng.python)
            if added == 0:
                break
            hidden += added
        if hidden != self.num_masked:
            # A block is never larger than what remains, so only topping up can occur; the trim of the official
            # code is unreachable.
            rows, columns = np.nonzero(~mask)
            chosen = rng.numpy.choice(rows.shape[0], self.num_masked - hidden, replace=False)
            mask[rows[chosen], columns[chosen]] = True
        return mask

    def _add_block(self, mask: NDArray[Any], room: int, rng: random.Random) -> int:
        height, width = self.grid
        for _ in range(ATTEMPTS_PER_BLOCK):
            # The bounds may be the wrong way round when little room is left; uniform() takes that, and so do we.
            area = rng.uniform(self.min_block, room)
            aspect = math.exp(rng.uniform(*self.log_aspect))
            h = int(round(math.sqrt(area * aspect)))
            w = int(round(math.sqrt(area / aspect)))
            if w < width and h < height:
                top = rng.randint(0, height - h)
                left = rng.randint(0, width - w)
                block = mask[top : top + h, left : left + w]
                added = h * w - int(np.count_nonzero(block))
                if 0 < added <= room:
                    block[:] = True
                    return added
        return 0
