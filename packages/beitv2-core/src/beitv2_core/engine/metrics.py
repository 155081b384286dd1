# SPDX-License-Identifier: Apache-2.0
"""Usage and perplexity of the codebook."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import ShapeError


class CodeUsage:
    """Counts codes over a window: share of codes used, perplexity, and a histogram per position.

    counts: int64 (N, K), N positions of the code grid, row by row.
    """

    def __init__(self, num_positions: int, num_codes: int):
        self.counts = np.zeros((num_positions, num_codes), dtype=np.int64)

    def track(self, codes: NDArray[Any]) -> None:
        """Add codes (B, N) to the window.  Raises ShapeError for another number of positions."""
        positions = self.counts.shape[0]
        if codes.ndim != 2 or codes.shape[1] != positions:
            raise ShapeError(
                f"CodeUsage: codes have shape {codes.shape}; expected (images, {positions}), one code for every "
                "patch of the grid. Count the codes of one tokenizer only."
            )
        np.add.at(self.counts, (np.arange(positions), codes), 1)

    @property
    def usage(self) -> float:
        """Share of the codes seen at least once, 0 .. 1."""
        return float((self.counts.sum(0) > 0).mean())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the code distribution, 1 .. K; 0 for an empty window."""
        return perplexity(self.counts.sum(0))

    def position_perplexity(self) -> NDArray[Any]:
        """Perplexity (N,) of the codes at each position: 1 means that the position always gets the same code."""
        return np.array([perplexity(row) for row in self.counts])


def perplexity(counts: NDArray[Any]) -> float:
    """exp of the entropy of counts (K,): as many equally used codes would vary as much.  0 for no counts."""
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))
