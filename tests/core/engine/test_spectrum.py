# SPDX-License-Identifier: Apache-2.0
"""RankMe and alpha-ReQ are those of their definitions, and neighbours are counted as by hand."""

from __future__ import annotations

import numpy as np
import pytest

from beitv2_core.engine.neighbours import leave_one_out_accuracy
from beitv2_core.engine.spectrum import EPS, alpha_req, effective_rank, rankme


def with_singular_values(values, images=40, seed=0):
    rng = np.random.RandomState(seed)
    left, _ = np.linalg.qr(rng.randn(images, len(values)))
    right, _ = np.linalg.qr(rng.randn(len(values), len(values)))
    return left @ np.diag(values) @ right.T


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (64, 24), (200, 96)])
def test_both_agree_with_numpy_on_the_same_matrix(shape):
    x = np.random.RandomState(sum(shape)).randn(*shape) * np.arange(1, shape[1] + 1) ** -0.7 + 0.3
    eigenvalues = np.clip(np.linalg.eigvalsh(x.T @ x), 0, None)[::-1][:min(shape)]  # not by the SVD that is tested
    shares = np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum() + EPS
    assert rankme(x.astype(np.float64)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    spectrum = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    last = min(50, *shape) if shape[0] > shape[1] else shape[0] - 1  # centred: one direction fewer than images
    ranks = np.arange(3, last + 1)
    design = np.stack([np.log(ranks), np.ones(len(ranks))], axis=1)
    slope = np.linalg.lstsq(design, np.log(spectrum[2:last]), rcond=None)[0][0]
    assert alpha_req(x) == pytest.approx(-slope, rel=1e-5)


def test_rankme_is_the_number_of_equal_directions_and_knows_no_scale():
    x = with_singular_values([1.0] * 7)
    assert rankme(x) == pytest.approx(7, abs=1e-4) and rankme(1e-3 * x) == pytest.approx(rankme(x))
    assert rankme(np.ones((30, 9))) == pytest.approx(1, abs=1e-4)
    assert rankme(np.zeros((4, 3))) == 0 and np.isnan(rankme(np.full((4, 3), np.inf)))


def test_alpha_is_the_exponent_of_a_power_law_in_the_stated_range():
    values = np.arange(1, 31) ** -0.9  # singular values of eigenvalues i ** -1.8
    x = with_singular_values(values, images=400)
    x = np.concatenate([x, -x])  # centred
    assert alpha_req(x) == pytest.approx(1.8, abs=1e-5)
    assert np.isnan(alpha_req(np.ones((20, 8)))) and np.isnan(alpha_req(np.full((4, 3), np.nan)))


def test_the_effective_rank_is_that_of_the_correlation_matrix_and_knows_no_scale_of_a_channel():
    x = np.random.RandomState(0).randn(300, 12) @ np.random.RandomState(1).randn(12, 12) + 5
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(x.T))
    shares = eigenvalues / eigenvalues.sum()
    assert effective_rank(x) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    scaled = np.concatenate([x * np.logspace(-2, 2, 12), np.full((300, 2), 7.0)], axis=1)  # two channels do not vary
    assert effective_rank(scaled) == pytest.approx(effective_rank(x), rel=1e-5)
    assert effective_rank(np.ones((5, 3))) == 0 and np.isnan(effective_rank(np.full((4, 3), np.nan)))


def test_an_image_is_never_its_own_neighbour():
    features = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1.0], [0.9, 0.2]])
    assert leave_one_out_accuracy(features, np.array([0, 0, 1, 1, 0]), k=1) == 1
    assert leave_one_out_accuracy(features, np.array([0, 1, 2, 3, 4]), k=1) == 0
