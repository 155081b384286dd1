# SPDX-License-Identifier: Apache-2.0
"""Cosine k-means for the first codebook.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from beitv2_core.errors import ShapeError

#: entries of the (samples x clusters) table held at once: 4 MB blocks stay in the CPU's cache, 32 MB blocks page-fault
#: on every allocation (5x slower, measured); a GPU is faster with fewer, larger blocks
CPU_BLOCK, GPU_BLOCK = 2**20, 2**25


class Clusters(NamedTuple):
    """`means` (K, C), l2-normalised where a cluster has members; `sizes` (K,) int64."""

    means: paddle.Tensor
    sizes: paddle.Tensor


def nearest(x_SC: paddle.Tensor, means_KC: paddle.Tensor, offset_K: paddle.Tensor | None = None) -> paddle.Tensor:
    """Index (S,) int64 of the mean with the largest dot product (plus `offset_K`), in blocks of rows."""
    if offset_K is not None:
        # One more channel: a sum over the (samples x clusters) table would cost as much as the product itself.
        x_SC = paddle.concat([x_SC, paddle.ones([x_SC.shape[0], 1], dtype=x_SC.dtype)], axis=-1)
        means_KC = paddle.concat([means_KC, offset_K.unsqueeze(-1)], axis=-1)
    rows = max(1, (GPU_BLOCK if x_SC.place.is_gpu_place() else CPU_BLOCK) // means_KC.shape[0])
    return paddle.concat([paddle.matmul(x_SC[start:start + rows], means_KC, transpose_y=True).argmax(-1)
                          for start in range(0, x_SC.shape[0], rows)])


def sum_by_code(x_SC: paddle.Tensor, codes_S: paddle.Tensor, num_codes: int) -> paddle.Tensor:
    """Sum of the rows that share a code, (K, C): a scatter, never a (samples x codes) one-hot matrix."""
    sums_KC = paddle.zeros([num_codes, x_SC.shape[1]], dtype=x_SC.dtype)
    return paddle.index_add(sums_KC, codes_S, 0, x_SC)


def pick_samples(samples_SC: paddle.Tensor, count: int) -> paddle.Tensor:
    """`count` random rows, distinct where there are enough.  Source: official norm_ema_quantizer.py, sample_vectors."""
    available = samples_SC.shape[0]
    chosen = paddle.randperm(available)[:count] if available >= count else paddle.randint(0, available, [count])
    return samples_SC.index_select(chosen)


def kmeans(samples_SC: paddle.Tensor, num_clusters: int, *, num_iters: int = 10,
           initial_means_KC: paddle.Tensor | None = None) -> Clusters:
    """Cluster l2-normalised samples (S, C) by cosine; an empty cluster keeps its mean.

    `initial_means_KC`: default random samples.  Raises ShapeError for no samples.
    Source: official norm_ema_quantizer.py, kmeans(use_cosine_sim=True).
    """
    if samples_SC.ndim != 2 or samples_SC.shape[0] == 0:
        raise ShapeError(f"kmeans: samples have shape {samples_SC.shape}; expected (samples, width), at least one row.")
    means_KC = initial_means_KC if initial_means_KC is not None else pick_samples(samples_SC, num_clusters)
    sizes_K = paddle.zeros([num_clusters], dtype="int64")
    for _ in range(num_iters):
        codes_S = nearest(samples_SC, means_KC)
        sizes_K = paddle.bincount(codes_S, minlength=num_clusters)
        filled_K1 = (sizes_K > 0).unsqueeze(-1)
        divisor_K1 = paddle.clip(sizes_K, min=1).astype(samples_SC.dtype).unsqueeze(-1)
        centres_KC = F.normalize(sum_by_code(samples_SC, codes_S, num_clusters) / divisor_K1, axis=-1)
        means_KC = paddle.where(filled_K1, centres_KC, means_KC)
    return Clusters(means_KC, sizes_K)
