# SPDX-License-Identifier: Apache-2.0
"""The computations that are exported: images (B, 3, H, W) to a tuple of tensors, in a form that becomes a static graph.

Shape suffixes: B batch, N patches, D width, E code width, K codes.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn


class TokenizerGraph(nn.Layer):
    """Images in [0, 1] -> codes (B, N) int64, and gaps (B,): best minus second-best cosine of the closest patch.

    As `VQKD.tokenize`, without the decoder and without the blocks of rows that spare memory there.
    """

    def __init__(self, tokenizer: Any):
        super().__init__()
        self.tokenizer = tokenizer
        codebook = tokenizer.quantize.codebook
        # |z - w|^2 = const - 2 (z.w - |w|^2 / 2), the last term as one more channel: see models.kmeans.nearest
        offset_K1 = -0.5 * paddle.square(codebook).sum(-1, keepdim=True)
        self.register_buffer("table", paddle.concat([codebook, offset_K1], axis=-1))

    def forward(self, images: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        unit_BNE = F.normalize(self.tokenizer.features(images), axis=-1)
        unit_BNE = paddle.concat([unit_BNE, paddle.ones_like(unit_BNE[:, :, :1])], axis=-1)
        scores_BNK = paddle.matmul(unit_BNE, self.table, transpose_y=True)
        best, _ = paddle.topk(scores_BNK, 2, axis=-1)
        return scores_BNK.argmax(-1), (best[:, :, 0] - best[:, :, 1]).min(-1)


class FeaturesGraph(nn.Layer):
    """Normalised images -> mean (B, D) and patches (B, N, D) of a backbone: see `exportable_features`."""

    def __init__(self, backbone: Any):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        tokens_BTD, _ = self.backbone.forward_tokens(images)
        patches_BND = self.backbone.normalise(tokens_BTD)[:, 1:]
        if self.backbone.fc_norm is not None:
            return self.backbone.fc_norm(tokens_BTD[:, 1:].mean(1)), patches_BND
        return patches_BND.mean(1), patches_BND


class SingleGraph(nn.Layer):
    """A model's first or only output."""

    def __init__(self, model: nn.Layer):
        super().__init__()
        self.model = model

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        out = self.model(images)
        return out[0] if isinstance(out, (list, tuple)) else out
