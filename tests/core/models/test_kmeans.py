# SPDX-License-Identifier: Apache-2.0
"""Cosine k-means: what it finds, what it keeps, what it refuses."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.errors import ShapeError
from beitv2_core.models import kmeans as kmeans_module
from beitv2_core.models.kmeans import kmeans, nearest, pick_samples, sum_by_code


def unit(*shape):
    return F.normalize(paddle.randn(list(shape)), axis=-1)


def test_well_separated_directions_are_found():
    directions = paddle.eye(4)
    samples = F.normalize(directions.tile([25, 1]) + 0.05 * paddle.randn([100, 4]), axis=-1)
    start = F.normalize(directions + 0.4 * paddle.rand([4, 4]), axis=-1)
    found = kmeans(samples, 4, initial_means_KC=start)
    assert ((found.means * directions).sum(-1) > 0.99).all()
    assert found.sizes.numpy().tolist() == [25, 25, 25, 25]


def test_an_empty_cluster_keeps_its_mean():
    samples = F.normalize(paddle.to_tensor([[1.0, 0.1], [1.0, -0.1]]), axis=-1)
    start = paddle.to_tensor([[1.0, 0.0], [-0.6, 0.8]])
    found = kmeans(samples, 2, num_iters=3, initial_means_KC=start)
    assert found.sizes.numpy().tolist() == [2, 0]
    np.testing.assert_array_equal(found.means[1].numpy(), start[1].numpy())


def test_the_start_follows_the_seed():
    samples = unit(40, 3)
    runs = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        runs.append(pick_samples(samples, 8).numpy())
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_starting_samples_are_distinct_where_there_are_enough_and_repeat_where_not():
    samples = paddle.arange(6, dtype="float32").unsqueeze(-1)
    assert len(set(pick_samples(samples, 6).numpy().ravel())) == 6
    assert pick_samples(samples, 9).shape == [9, 1]
    assert kmeans(unit(3, 4), 5).means.shape == [5, 4]


@pytest.mark.parametrize("entries", [1, 7 * 11, 2**20])
def test_blocks_of_any_size_find_the_nearest_in_euclidean_distance(monkeypatch, entries):
    monkeypatch.setattr(kmeans_module, "CPU_BLOCK", entries)
    samples, means = unit(50, 6), 2 * paddle.rand([11, 1]) * unit(11, 6)  # lengths differ: the offset decides
    distance = ((samples.unsqueeze(1) - means) ** 2).sum(-1).numpy()
    got = nearest(samples, means, -0.5 * (means**2).sum(-1)).numpy()
    np.testing.assert_array_equal(got, distance.argmin(-1))
    assert (got != (samples @ means.T).numpy().argmax(-1)).any()


def test_sums_by_code_are_those_of_a_one_hot_product():
    x, codes = paddle.randn([30, 5]), paddle.randint(0, 7, [30])
    expected = np.eye(7, dtype=np.float32)[codes.numpy()].T @ x.numpy()
    np.testing.assert_allclose(sum_by_code(x, codes, 7).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [[0, 4], [2, 3, 4]])
def test_samples_of_another_shape_are_refused_with_their_shape(shape):
    with pytest.raises(ShapeError, match=r"expected \(samples, width\), at least one row"):
        kmeans(paddle.zeros(shape), 2)
