# SPDX-License-Identifier: Apache-2.0
"""What the mask figure covers."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beitv2_core.viz.masks import covered, enlarge, mask_examples, tinted


def test_a_mask_covers_exactly_its_patches():
    mask = np.zeros((2, 3), bool)
    mask[0, 2] = True
    hidden = enlarge(mask, (8, 12))
    image = np.full((8, 12, 3), 7, dtype=np.uint8)
    for shown in (covered(image, hidden), tinted(image, hidden)):
        changed = (shown != image).any(-1)
        assert changed[:4, 8:].all() and changed.sum() == 16


def test_the_tint_keeps_what_is_under_it_visible():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    shown = tinted(image, np.ones((4, 4), bool)).astype(int)
    assert (shown[:, 2:] - shown[:, :2] > 50).all()


def test_hidden_patches_are_grey_in_the_figure(tmp_path):
    black = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    mask_examples(black, np.ones((1, 4, 4), dtype=bool), tmp_path / "all.png")
    mask_examples(black, np.zeros((1, 4, 4), dtype=bool), tmp_path / "none.png")
    grey = []
    for name in ("all.png", "none.png"):
        with Image.open(tmp_path / name) as image:
            grey.append((np.asarray(image.convert("RGB")) == 190).all(-1).sum())
    assert grey[0] > 1000 and grey[1] == 0
