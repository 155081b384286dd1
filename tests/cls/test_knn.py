# SPDX-License-Identifier: Apache-2.0
"""kNN votes by cosine and weight, and does not depend on the blocks it is computed in."""

from __future__ import annotations

import numpy as np
import pytest

from beitv2_cls.knn import knn_accuracy
from beitv2_core.errors import ShapeError


def clouds(count, seed):
    rng = np.random.RandomState(seed)
    labels = np.arange(count) % 3
    return np.eye(3, 5)[labels] + 0.05 * rng.randn(count, 5), labels


def test_separate_clouds_are_told_apart_whatever_the_scale_and_the_block():
    train, test = clouds(60, 0), clouds(30, 1)
    assert knn_accuracy(train, test) == {10: 1.0, 20: 1.0, 100: 1.0}
    scaled = (train[0] * np.random.RandomState(2).uniform(0.1, 9, (60, 1)), train[1])
    assert knn_accuracy(scaled, test, block=7) == knn_accuracy(train, test)


def test_a_near_neighbour_outvotes_many_far_ones():
    train = np.array([[1.0, 0.0]] + [[0.0, 1.0]] * 9), np.array([1] + [0] * 9)
    test = np.array([[1.0, 0.05]]), np.array([1])
    assert knn_accuracy(train, test, neighbours=(10,)) == {10: 1.0}
    assert knn_accuracy(train, test, neighbours=(10,), temperature=1e6) == {10: 0.0}


def test_features_of_two_backbones_are_refused():
    with pytest.raises(ShapeError, match="5 channels, test features 4"):
        knn_accuracy(clouds(9, 0), (np.ones((3, 4)), np.zeros(3, dtype=int)))
