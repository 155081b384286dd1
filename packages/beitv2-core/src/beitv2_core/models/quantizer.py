# SPDX-License-Identifier: Apache-2.0
"""The codebook: nearest code by cosine, learnt by exponential moving average.

Shape suffixes: `layers/__init__.py`; features and codes have C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers import collective
from beitv2_core.layers.fast.products import mixed_precision
from beitv2_core.models.kmeans import kmeans, nearest, sum_by_code


class Quantized(NamedTuple):
    """`z_q` (B, N, C) with straight-through gradient, `codes` (B, N) int64, `loss` the commitment term (scalar)."""

    z_q: paddle.Tensor
    codes: paddle.Tensor
    loss: paddle.Tensor


class NormEMAQuantizer(nn.Layer):
    """Replace every patch feature by its nearest code and let the codebook follow the features by EMA.

    The codebook (K, C) is one for all processes: k-means sees the samples of all, counts and sums are all-reduced.
    Computed in float32 whatever the mixed-precision level.  `kmeans_init`: the first training batch gives the first
    codebook by k-means (`initted` 0 -> 1); otherwise it starts from random directions.

    Source: paper Eq. 1 and Eq. 2; official norm_ema_quantizer.py, NormEMAVectorQuantizer (fact: the loss is a mean over
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

    def forward(self, h_BNC: paddle.Tensor) -> Quantized:
        """Quantise features (B, N, C) of any scale; in training mode the codebook then moves towards them.

        z_q and the loss use the codebook before the move.  Raises ShapeError for another channel count.
        """
        if h_BNC.ndim != 3:
            raise ShapeError(
                f"NormEMAQuantizer: features have shape {list(h_BNC.shape)}; expected (batch, patches, "
                f"{self.code_dim}). Put the channels last and the patches of an image in one axis."
            )
        self._check_channels(h_BNC)
        with mixed_precision("off"):  # a code must not depend on mixed precision
            z_BNC = F.normalize(h_BNC.astype("float32"), axis=-1)
            z_SC = z_BNC.detach().reshape([-1, self.code_dim])
            # This read waits for the device once a step.  A flag in Python would be stale after `set_state_dict`, which
            # writes the tensor in place; and `VQKDTask.loss` waits for the codes of the same step in any case.
            if self.training and self.initted.item() == 0:
                self.initialise(z_BNC.detach())
            codes_S = self.nearest_codes(z_SC)
            codes_BN = codes_S.reshape(h_BNC.shape[:2])
            e_BNC = self.lookup(codes_BN)
            loss = self.beta * F.mse_loss(z_BNC, e_BNC)
            z_q_BNC = z_BNC + (e_BNC - z_BNC).detach()
            if self.training:
                self._ema_update(z_SC, codes_S)
        return Quantized(z_q_BNC, codes_BN, loss)

    def lookup(self, codes: paddle.Tensor) -> paddle.Tensor:
        """Code vectors (..., C) of codes (...), int64 in 0 .. K - 1."""
        return F.embedding(codes, self.codebook).detach()

    @paddle.no_grad()
    def nearest_codes(self, z_SC: paddle.Tensor) -> paddle.Tensor:
        """Nearest code (S,) int64 of l2-normalised features, in Euclidean distance to the codebook as stored.

        Raises ShapeError for another channel count.
        """
        self._check_channels(z_SC)
        # |z - w|^2 = const - 2 (z.w - |w|^2 / 2): for unit codes this is the largest cosine.
        return nearest(z_SC, self.codebook, -0.5 * paddle.square(self.codebook).sum(-1))

    @paddle.no_grad()
    def initialise(self, features: paddle.Tensor, *, gathered: bool = False) -> None:
        """Set the codebook by k-means over l2-normalised features (..., C) of all processes; `initted` becomes 1.

        gathered: `features` are already those of all.  The start is drawn from Paddle's generator.
        """
        self._check_channels(features)
        samples_SC = (features if gathered else collective.all_gather(features)).reshape([-1, self.code_dim])
        means_KC, _ = kmeans(samples_SC, self.num_codes, num_iters=self.kmeans_iters)
        self.codebook.set_value(collective.broadcast(means_KC))
        self.initted.set_value(paddle.ones([1]))

    @paddle.no_grad()
    def replace_codes(self, codes_R: paddle.Tensor, vectors_RC: paddle.Tensor) -> None:
        """Overwrite codes (R,) by the directions of vectors (R, C); those of the first process count, everywhere.

        Raises ShapeError unless there is one vector of the codebook's width for each code.
        """
        if codes_R.ndim != 1 or list(vectors_RC.shape) != [codes_R.shape[0], self.code_dim]:
            raise ShapeError(
                f"NormEMAQuantizer.replace_codes: vectors have shape {list(vectors_RC.shape)}, codes "
                f"{list(codes_R.shape)}; expected (R, {self.code_dim}) and (R,), one vector for each code."
            )
        vectors_RC = collective.broadcast(F.normalize(vectors_RC.astype("float32"), axis=-1))
        self.codebook.set_value(paddle.scatter(self.codebook, codes_R, vectors_RC))

    def _check_channels(self, features: paddle.Tensor) -> None:
        if features.shape[-1] != self.code_dim:
            raise ShapeError(
                f"NormEMAQuantizer: features have {features.shape[-1]} channels, the codebook has {self.code_dim}. "
                "Check tokenizer.code_dim and the encoder's projection."
            )

    @paddle.no_grad()
    def _ema_update(self, z_SC: paddle.Tensor, codes_S: paddle.Tensor) -> None:
        bins_K = collective.all_reduce_sum(paddle.bincount(codes_S, minlength=self.num_codes).astype("float32"))
        sums_KC = collective.all_reduce_sum(sum_by_code(z_SC, codes_S, self.num_codes))
        self.cluster_size.set_value(self.cluster_size * self.decay + bins_K * (1 - self.decay))
        unused_K1 = (bins_K == 0).unsqueeze(-1)
        mean_KC = F.normalize(sums_KC / paddle.clip(bins_K, min=1.0).unsqueeze(-1), axis=-1)
        target_KC = paddle.where(unused_K1, self.codebook, mean_KC)
        moved_KC = self.codebook * self.decay + target_KC * (1 - self.decay)
        self.codebook.set_value(F.normalize(moved_KC, axis=-1))
