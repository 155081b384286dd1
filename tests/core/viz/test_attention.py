# SPDX-License-Identifier: Apache-2.0
"""Light on an image where attention is."""

from __future__ import annotations

import numpy as np

from beitv2_core.viz.attention import lit


def test_light_falls_where_the_weight_is():
    weight = np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])
    image = np.full((8, 12, 3), 200, dtype=np.uint8)
    shown = lit(image, weight)
    np.testing.assert_array_equal(shown[:4, 8:], 200)
    assert (shown[:4, :4] < shown[:4, 4:8]).all() and (shown[4:] == shown[0, 0]).all()


def test_no_attention_at_all_is_dark_and_no_division_by_zero():
    with np.errstate(all="raise"):
        assert lit(np.full((4, 4, 3), 200, np.uint8), np.zeros((2, 2))).max() <= 30
