# SPDX-License-Identifier: Apache-2.0
"""Weighted nearest neighbours on frozen features.

Shape suffixes: N training images, M test images, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beitv2_core.errors import ShapeError


def knn_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *,
                 neighbours: Sequence[int] = (10, 20, 100), temperature: float = 0.07,
                 block: int = 512) -> dict[int, float]:
    """Top-1 of cosine nearest neighbours, {k: accuracy}; each neighbour votes with exp(cosine / temperature).

    train, test: (features (N, D), labels (N,)).  A k above N counts all N.  Raises ShapeError for other widths.
    Source: DINO eval_knn.py, knn_classifier (the protocol of Wu et al. 2018).
    """
    if train[0].shape[1] != test[0].shape[1]:
        raise ShapeError(f"knn: training features have {train[0].shape[1]} channels, test features "
                         f"{test[0].shape[1]}. Take both from one backbone.")
    train_ND, test_MD = (part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12)
                         for part in (train[0].astype(np.float64), test[0].astype(np.float64)))
    classes = int(max(train[1].max(), test[1].max())) + 1
    right = dict.fromkeys(neighbours, 0)
    for start in range(0, len(test_MD), block):
        cosine_MN = test_MD[start:start + block] @ train_ND.T
        order_MN = np.argsort(-cosine_MN, axis=1, kind="stable")[:, :max(neighbours)]
        votes_MN = np.exp(np.take_along_axis(cosine_MN, order_MN, 1) / temperature)
        labels_MN = train[1][order_MN]
        rows = np.arange(len(cosine_MN))[:, None]
        for k in neighbours:
            scores_MC = np.zeros((len(cosine_MN), classes))
            np.add.at(scores_MC, (rows, labels_MN[:, :k]), votes_MN[:, :k])
            right[k] += int((scores_MC.argmax(1) == test[1][start:start + block]).sum())
    return {k: count / len(test_MD) for k, count in right.items()}
