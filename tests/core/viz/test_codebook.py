# SPDX-License-Identifier: Apache-2.0
"""The numbers and colours behind the images of a codebook."""

from __future__ import annotations

import numpy as np

from beitv2_core.viz.codebook import _contact_sheet, code_colours, palette


def test_a_code_has_the_same_colour_whatever_stands_beside_it():
    together = palette(np.arange(8192))
    np.testing.assert_array_equal(palette(np.array([[4711, 3]])), together[[[4711, 3]]])
    assert together.min() >= 0 and together.max() <= 1


def test_codes_next_to_each_other_are_told_apart():
    colours = palette(np.arange(64))
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + np.eye(64)
    assert distance.min() > 0.02
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 0.2


def test_codes_near_each_other_have_colours_near_each_other():
    draws = np.random.RandomState(0)
    groups = np.repeat(np.eye(6, 16)[:4], 8, axis=0) + 0.02 * draws.randn(32, 16)  # four directions, eight codes each
    colours = code_colours(groups)
    assert colours.shape == (32, 3) and colours.min() >= 0 and colours.max() <= 1
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    same = np.arange(32)[:, None] // 8 == np.arange(32)[None] // 8
    assert distance[same].max() < 0.5 * distance[~same].min()
    np.testing.assert_array_equal(code_colours(groups), colours)


def test_the_contact_sheet_shows_every_patch_in_its_row():
    first, second = (np.full((8, 8, 3), grey, dtype=np.uint8) for grey in (10, 200))
    sheet, pitch = _contact_sheet([[first], [second, second], []], (3, 2), (8, 8))
    dark, bright = (sheet[..., 0] == 10), (sheet[..., 0] == 200)
    assert bright.sum() == 2 * dark.sum() == 2 * 64 * 64  # enlarged to 64 pixels
    assert set(np.flatnonzero(dark.any(1)) // pitch) == {0} and set(np.flatnonzero(bright.any(1)) // pitch) == {1}
    assert (sheet[2 * pitch:] == 255).all()
