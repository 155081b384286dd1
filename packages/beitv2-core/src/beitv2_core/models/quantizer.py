# SPDX-License-Identifier: Apache-2.0
"""The codebook: nearest code by cosine, learnt by exponential moving average.

Shape suffixes: B batch, N patches, D code width, K codes, M = B * N features.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers import collective
from beitv2_core.models.kmeans import kmeans, nearest, sum_by_code


class Quantized(NamedTuple):
    """`z_q` (B, N, D) with straight-through gradient, `codes` (B, N) int64, `loss` the commitment term (scalar)."""

    z_q: paddle.Tensor
    codes: paddle.Tensor
    loss: paddle.Tensor


class NormEMAQuantizer(nn.Layer):
    """Replace every patch feature by its nearest code and let the codebook follow the features by EMA.

    The codebook (K, D) is one for all processes: k-means sees the samples of all, counts and sums are all-reduced.
    Computed in float32 whatever the mixed-precision level.  `kmeans_init`: the first training batch gives the first
    codebook by k-means (`initted` 0 -> 1); otherwise it starts from random directions.

    Source: paper Eq. 1 and 2; official norm_ema_quantizer.py, NormEMAVectorQuantizer (fact: the loss is a mean over
    all elements).  Departs: eval mode changes nothing (official: moves `cluster_size`, and runs k-means in eval mode).
    Departs: k-means is shared by all processes (official: every process keeps its own start).
    """

    def __init__(self, num_codes: int, code_dim: int, *, decay: float = 0.99, beta: float = 1.0,
                 kmeans_init: bool = True, kmeans_iters: int = 10):
        super().__init__()
        self.num_codes, self.code_dim = num_codes, code_dim
        self.decay, self.beta, self.kmeans_iters = decay, beta, kmeans_iters
        codebook = paddle.zeros([num_codes, code_dim])
        if not kmeans_init:
            codebook = F.normalize(paddle.randn([num_codes, code_dim]), axis=-1)
        self.register_buffer("codebook", codebook)
        self.register_buffer("cluster_size", paddle.zeros([num_codes]))
        self.register_buffer("initted", paddle.full([1], 0.0 if kmeans_init else 1.0))

    def forward(self, h_BND: paddle.Tensor) -> Quantized:
        """Quantise features (B, N, D) of any scale; in training mode the codebook then moves towards them.

        z_q and the loss use the codebook before the move.  Raises ShapeError for another channel count.
        """
        if h_BND.ndim != 3:
            raise ShapeError(
                f"NormEMAQuantizer: features have shape {list(h_BND.shape)}; expected (batch, patches, "
                f"{self.code_dim}). Put the channels last and the patches of an image in one axis."
            )
        self._check_channels(h_BND)
        with paddle.amp.auto_cast(enable=False):  # a code must not depend on mixed precision
            z_BND = F.normalize(h_BND.astype("float32"), axis=-1)
            flat_MD = z_BND.detach().reshape([-1, self.code_dim])
            if self.training and self.initted.item() == 0:
                self.initialise(z_BND.detach())
            codes_M = self.nearest_codes(flat_MD)
            codes_BN = codes_M.reshape(h_BND.shape[:2])
            e_BND = self.lookup(codes_BN)
            loss = self.beta * F.mse_loss(z_BND, e_BND)
            z_q_BND = z_BND + (e_BND - z_BND).detach()
            if self.training:
                self._follow(flat_MD, codes_M)
        return Quantized(z_q_BND, codes_BN, loss)

    def lookup(self, codes: paddle.Tensor) -> paddle.Tensor:
        """Code vectors (..., D) of codes (...), int64 in 0 .. K - 1."""
        return F.embedding(codes, self.codebook).detach()

    @paddle.no_grad()
    def nearest_codes(self, z_MD: paddle.Tensor) -> paddle.Tensor:
        """Nearest code (M,) int64 of l2-normalised features, in Euclidean distance to the codebook as stored.

        Raises ShapeError for another channel count.
        """
        self._check_channels(z_MD)
        # |z - w|^2 = const - 2 (z.w - |w|^2 / 2): for unit codes this is the largest cosine.
        return nearest(z_MD, self.codebook, -0.5 * paddle.square(self.codebook).sum(-1))

    @paddle.no_grad()
    def initialise(self, z: paddle.Tensor, *, gathered: bool = False) -> None:
        """Set the codebook by k-means over l2-normalised features (..., D) of all processes; `initted` becomes 1.

        gathered: `z` already holds the features of all.  The start is drawn from Paddle's generator.
        """
        self._check_channels(z)
        samples = (z if gathered else collective.all_gather(z)).reshape([-1, self.code_dim])
        means, _ = kmeans(samples, self.num_codes, num_iters=self.kmeans_iters)
        self.codebook.set_value(collective.broadcast(means))
        self.initted.set_value(paddle.ones([1]))

    @paddle.no_grad()
    def replace_codes(self, codes_R: paddle.Tensor, vectors_RD: paddle.Tensor) -> None:
        """Overwrite codes (R,) by the directions of vectors (R, D); those of the first process count, everywhere.

        Raises ShapeError unless there is one vector of the codebook's width for each code.
        """
        if codes_R.ndim != 1 or list(vectors_RD.shape) != [codes_R.shape[0], self.code_dim]:
            raise ShapeError(
                f"NormEMAQuantizer.replace_codes: vectors have shape {list(vectors_RD.shape)}, codes "
                f"{list(codes_R.shape)}; expected (R, {self.code_dim}) and (R,), one vector for each code."
            )
        vectors_RD = collective.broadcast(F.normalize(vectors_RD.astype("float32"), axis=-1))
        self.codebook.set_value(paddle.scatter(self.codebook, codes_R, vectors_RD))

    def _check_channels(self, features: paddle.Tensor) -> None:
        if features.shape[-1] != self.code_dim:
            raise ShapeError(
                f"NormEMAQuantizer: features have {features.shape[-1]} channels, the codebook has {self.code_dim}. "
                "Check tokenizer.code_dim and the encoder's projection."
            )

    @paddle.no_grad()
    def _follow(self, z_MD: paddle.Tensor, codes_M: paddle.Tensor) -> None:
        bins_K = collective.all_reduce_sum(paddle.bincount(codes_M, minlength=self.num_codes).astype("float32"))
        sums_KD = collective.all_reduce_sum(sum_by_code(z_MD, codes_M, self.num_codes))
        self.cluster_size.set_value(self.cluster_size * self.decay + bins_K * (1 - self.decay))
        unused_K1 = (bins_K == 0).unsqueeze(-1)
        mean_KD = F.normalize(sums_KD / paddle.clip(bins_K, min=1.0).unsqueeze(-1), axis=-1)
        target_KD = paddle.where(unused_K1, self.codebook, mean_KD)
        moved = self.codebook * self.decay + target_KD * (1 - self.decay)
        self.codebook.set_value(F.normalize(moved, axis=-1))
