# SPDX-License-Identifier: Apache-2.0
"""The blocks a backbone taps are blocks it has."""

from __future__ import annotations

import pytest

from beitv2_seg.model.taps import default_taps


@pytest.mark.parametrize("depth, taps", [(1, (0, 0, 0, 0)), (2, (0, 0, 1, 1)), (3, (0, 1, 2, 2)), (4, (0, 1, 2, 3)),
                                         (6, (0, 2, 3, 5)), (12, (2, 5, 8, 11))])
def test_taps_that_nobody_gave_are_blocks_the_trunk_has(depth, taps):
    assert default_taps(None, depth) == taps
