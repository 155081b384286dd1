# SPDX-License-Identifier: Apache-2.0
"""Hide patches one by one, each with the same chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blockwise import TwoGenerators, check_grid


class RandomMasking:
    """Hide exactly `num_masked` patches of the grid, every choice equally likely.

    grid: (rows, columns) in patches. Raises ValueError when the grid has fewer patches. Draws from `rng.numpy` only.
    Not part of the paper's recipe; the usual ablation beside `BlockwiseMasking`.
    """

    def __init__(self, grid: tuple[int, int], num_masked: int) -> None:
        self.grid = check_grid("RandomMasking", grid, num_masked)
        self.num_masked = num_masked

    def __repr__(self) -> str:
        return f"RandomMasking({self.grid[0]} x {self.grid[1]}, {self.num_masked} hidden)"

    def __call__(self, rng: TwoGenerators) -> NDArray[Any]:
        """Draw one mask: bool (rows, columns) with exactly `num_masked` true."""
        height, width = self.grid
        mask = np.zeros(height * width, dtype=bool)
        mask[rng.numpy.choice(height * width, self.num_masked, replace=False)] = True
        return mask.reshape(self.grid)
