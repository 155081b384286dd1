# SPDX-License-Identifier: Apache-2.0
"""The table of `segment compare`: both trainings and their difference, told for what was measured only."""

from __future__ import annotations

import numpy as np

from beitv2_seg.compare import coloured, rows_of
from beitv2_seg.reading.predict import class_colours


def measured(miou, macc, aacc, classes=3):
    return {"miou": miou, "macc": macc, "aacc": aacc, "classes_measured": classes, "classes": 3}


def test_both_trainings_are_told_in_per_cent_and_their_difference_in_points():
    heading, pretrained, scratch, difference = rows_of(
        {"pretrained": measured(0.625, 0.75, 0.9), "scratch": measured(0.6, 0.8, 0.9, classes=2)})
    assert heading == ("start", "mIoU", "mAcc", "aAcc", "classes")
    assert pretrained == ("pretrained", "62.5 %", "75.0 %", "90.0 %", "3 of 3")
    assert scratch == ("scratch", "60.0 %", "80.0 %", "90.0 %", "2 of 3")
    assert difference == ("difference", "+2.5 points", "-5.0 points", "+0.0 points")


def test_one_run_each_has_no_spread():
    rows = rows_of({"pretrained": measured(0.5, 0.5, 0.5), "scratch": measured(0.5, 0.5, 0.5)})
    assert "+-" not in " ".join(cell for row in rows for cell in row)


def test_what_was_not_measured_has_no_difference():
    rows = rows_of({"pretrained": measured(None, 0.5, 0.5, 0), "scratch": measured(0.5, 0.5, 0.5)})
    assert rows[1][1] == "not measured" and rows[3] == ("difference", "", "+0.0 points", "+0.0 points")


def test_pixels_without_a_label_are_white_and_no_colour_of_a_class():
    colours = class_colours(3)
    drawn = coloured(np.array([[0, 1], [2, 3]]), colours)
    assert drawn.dtype == np.uint8 and drawn[1, 1].tolist() == [255, 255, 255]
    assert (drawn.reshape(-1, 3)[:3] == colours).all()
