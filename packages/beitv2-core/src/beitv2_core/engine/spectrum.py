# SPDX-License-Identifier: Apache-2.0
"""What the spectrum of a matrix of features says about them, without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: added to every share of a singular value (RankMe, Eq. 1)
EPS = 1e-7
#: ranks of the eigenvalues that the power law is fitted to, first and last one included, 1 = the largest
ALPHA_RANGE = (3, 50)


def rankme(features: NDArray[Any]) -> float:
    """Effective rank of features (images, width): exp of the entropy of the singular values as shares of their sum.

    Between 1 and min(images, width); computed in float64 on the features as they are, not centred.  0 for features that
    are all zero, NaN where one is not finite.
    Source: RankMe (Garrido et al. 2023, arXiv 2210.02885), Eq. 1: p_k = s_k / sum(s) + eps, exp(-sum p_k log p_k).
    """
    if not np.isfinite(features).all():
        return float("nan")
    singular = np.linalg.svd(np.asarray(features, dtype=np.float64), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return 0.0
    shares = singular / total + EPS
    return float(np.exp(-(shares * np.log(shares)).sum()))


def effective_rank(features: NDArray[Any]) -> float:
    """Effective rank of standardised features (images, width): exp of the entropy of their correlations' eigenvalues.

    Every channel is centred and divided by its standard deviation; channels that do not vary count for nothing.  Where
    RankMe weighs directions by their singular values, this one does by their squares, so noise in many of them counts
    less.  Between 1 and min(images, width); 0 where nothing varies, NaN where a feature is not finite.
    Source: Roy and Vetterli 2007 (the effective rank), on the correlation matrix.
    """
    if not np.isfinite(features).all():
        return float("nan")
    x_MD = np.asarray(features, dtype=np.float64)
    x_MD = x_MD - x_MD.mean(0)
    deviation = x_MD.std(0)
    varying = deviation > np.abs(np.asarray(features)).max() * np.finfo(np.float32).eps
    if not varying.any():
        return 0.0
    eigenvalues = np.linalg.svd(x_MD[:, varying] / deviation[varying], compute_uv=False) ** 2
    shares = eigenvalues / eigenvalues.sum() + np.finfo(np.float64).tiny
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alpha_req(features: NDArray[Any], ranks: tuple[int, int] = ALPHA_RANGE) -> float:
    """Exponent a of the power law i ** -a that the eigenvalues of the features' covariance follow.

    features: (images, width), centred here, in float64.  ranks: first and last rank i of the least-squares fit of log
    eigenvalue against log i; eigenvalues that are zero to rounding are left out.  Near 1 for features that generalise
    well, large where few directions hold everything; NaN with fewer than two eigenvalues in the range.
    Source: alpha-ReQ (Agrawal et al. 2022).  The covariance is divided by the number of images, which moves no slope.
    """
    if not np.isfinite(features).all():
        return float("nan")
    x_MD = np.asarray(features, dtype=np.float64)
    singular = np.linalg.svd(x_MD - x_MD.mean(0), compute_uv=False)
    eigenvalues = singular**2 / len(x_MD)
    first, last = ranks[0] - 1, min(ranks[1], len(eigenvalues))
    rank = np.arange(first, last) + 1.0
    kept = eigenvalues[first:last]
    above = kept > eigenvalues[0] * max(x_MD.shape) * np.finfo(np.float64).eps
    if above.sum() < 2:
        return float("nan")
    slope, _ = np.polyfit(np.log(rank[above]), np.log(kept[above]), 1)
    return float(-slope)
