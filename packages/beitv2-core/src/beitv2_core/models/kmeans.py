# SPDX-License-Identifier: Apache-2.0
"""Cosine k-means for the first codebook.

Shape suffixes: S samples, K clusters, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from beitv2_core.errors import ShapeError

#: entries of the (samples x clusters) table held at once: 4 MB, which stay in the CPU's cache (a table of 32 MB is five
#: times slower: every block's memory is new to the process); a GPU wants fewer and larger blocks
CPU_BLOCK, GPU_BLOCK = 2**20, 2**25


class Clusters(NamedTuple):
    """`means` (K, D), l2-normalised where a cluster has members; `sizes` (K,) int64."""

    means: paddle.Tensor
    sizes: paddle.Tensor


def nearest(x_SD: paddle.Tensor, means_KD: paddle.Tensor, offset_K: paddle.Tensor | None = None) -> paddle.Tensor:
    """Index (S,) int64 of the mean with the largest dot product (plus `offset_K`), in blocks of rows."""
    if offset_K is not None:
        # One more channel: a sum over the (samples x clusters) table would cost as much as the product itself.
        x_SD = paddle.concat([x_SD, paddle.ones([x_SD.shape[0], 1], dtype=x_SD.dtype)], axis=-1)
        means_KD = paddle.concat([means_KD, offset_K.unsqueeze(-1)], axis=-1)
    rows = max(1, (GPU_BLOCK if x_SD.place.is_gpu_place() else CPU_BLOCK) // means_KD.shape[0])
    return paddle.concat([paddle.matmul(x_SD[start:start + rows], means_KD, transpose_y=True).argmax(-1)
                          for start in range(0, x_SD.shape[0], rows)])


def sum_by_code(x_SD: paddle.Tensor, codes_S: paddle.Tensor, num_codes: int) -> paddle.Tensor:
    """Sum of the rows that share a code, (K, D): a scatter, never a (samples x codes) one-hot matrix."""
    sums = paddle.zeros([num_codes, x_SD.shape[1]], dtype=x_SD.dtype)
    return paddle.index_add(sums, codes_S, 0, x_SD)


def pick_samples(samples_SD: paddle.Tensor, count: int) -> paddle.Tensor:
    """`count` random rows, distinct where there are enough.  Source: official norm_ema_quantizer.py, sample_vectors."""
    available = samples_SD.shape[0]
    chosen = paddle.randperm(available)[:count] if available >= count else paddle.randint(0, available, [count])
    return samples_SD.index_select(chosen)


def kmeans(samples_SD: paddle.Tensor, num_clusters: int, *, num_iters: int = 10,
           initial_means: paddle.Tensor | None = None) -> Clusters:
    """Cluster l2-normalised samples (S, D) by cosine; an empty cluster keeps its mean.

    `initial_means` (K, D): default random samples.  Raises ShapeError for no samples.
    Source: official norm_ema_quantizer.py, kmeans(use_cosine_sim=True).
    """
    if samples_SD.ndim != 2 or samples_SD.shape[0] == 0:
        raise ShapeError(f"kmeans: samples have shape {samples_SD.shape}; expected (samples, width), at least one row.")
    means = pick_samples(samples_SD, num_clusters) if initial_means is None else initial_means
    sizes = paddle.zeros([num_clusters], dtype="int64")
    for _ in range(num_iters):
        codes_S = nearest(samples_SD, means)
        sizes = paddle.bincount(codes_S, minlength=num_clusters)
        filled_K1 = (sizes > 0).unsqueeze(-1)
        divisor = paddle.clip(sizes, min=1).astype(samples_SD.dtype).unsqueeze(-1)
        centres = F.normalize(sum_by_code(samples_SD, codes_S, num_clusters) / divisor, axis=-1)
        means = paddle.where(filled_K1, centres, means)
    return Clusters(means, sizes)
