# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours among a few labelled images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS, TEMPERATURE = 10, 0.07


def leave_one_out_accuracy(features: NDArray[Any], labels: NDArray[Any], *, k: int = NEIGHBOURS,
                           temperature: float = TEMPERATURE) -> float:
    """Share of images whose label is that of their `k` nearest neighbours among the others.

    features: (images, width); labels: (images,), 0 and up.  By cosine; a neighbour votes with exp(cosine /
    temperature), as `beitv2 knn` counts (DINO eval_knn.py).
    """
    x_MD = np.asarray(features, dtype=np.float64)
    x_MD = x_MD / np.linalg.norm(x_MD, axis=1, keepdims=True).clip(1e-12)
    cosine_MM = x_MD @ x_MD.T
    np.fill_diagonal(cosine_MM, -np.inf)
    order_Mk = np.argsort(-cosine_MM, axis=1, kind="stable")[:, :min(k, len(x_MD) - 1)]
    votes_Mk = np.exp(np.take_along_axis(cosine_MM, order_Mk, 1) / temperature)
    scores_MC = np.zeros((len(x_MD), int(labels.max()) + 1))
    np.add.at(scores_MC, (np.arange(len(x_MD))[:, None], labels[order_Mk]), votes_Mk)
    return float((scores_MC.argmax(1) == labels).mean())
