# SPDX-License-Identifier: Apache-2.0
"""The four blocks a segmentation backbone taps; needs no Paddle."""

from __future__ import annotations

from typing import Optional

#: of the published models, by depth
TAPS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}


def default_taps(size: Optional[str], depth: int) -> tuple[int, ...]:
    """The blocks a segmenter taps where its settings do not say: the published ones of a size, or quarters.

    Fewer than four blocks are tapped more than once: 0, 1, 2, 2 of three.
    """
    up = 3 if depth < 4 else 0  # rounded down, the first quarter of three blocks would be none
    quarters = tuple((depth * i + up) // 4 - 1 for i in range(1, 5))
    return TAPS.get(depth, quarters) if size in ("base", "large") else quarters
