# SPDX-License-Identifier: Apache-2.0
"""Masked image modelling: predict the tokenizer's code of every hidden patch (BEiT v2, pretraining objective).

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.linear import Linear
from beitv2_core.layers.init import kaiming_uniform_default, rescale_block, trunc_normal
from beitv2_core.models.backbone import BEiTBackbone, drop_path_rates, points_in
from beitv2_core.models.intermediates import Point


class BEiTForMaskedImageModeling(BEiTBackbone):
    """The backbone with its code classifier and, with `early_layers`, the patch-aggregation [CLS] head.

    images (B, 3, h, w) ImageNet-normalised, mask (B, N) bool (True = hidden), a tensor or an array ->
    {"mim": logits (M, K)} and, with the [CLS] head, {"cls": logits (M, K)}, rows in row-major order of the mask.
    The head is `head_layers` blocks that read the final class token beside the patches as they left block
    `early_layers` (1-based count of blocks); with `share_lm_head` it uses the trunk's norm and classifier.
    Training uses `SkipUnread` (`skip_unread.py`): the same logits, without tokens whose output is not needed.

    Source: paper section 2.3, figure 3 and Eq. 3; official modeling_pretrain.py,
    VisionTransformerForMaskedImageModelingCLS (with head) and VisionTransformerForMaskedImageModeling (without).
    """

    def __init__(self, *, num_codes: int = 8192, early_layers: int | None = None, head_layers: int = 2,
                 share_lm_head: bool = True, **backbone: Any):
        backbone = {"use_mask_token": True, "norm": "final", "init": "pretrain", **backbone}
        super().__init__(**backbone)
        if early_layers is not None and not 0 < early_layers <= self.depth:
            raise ShapeError(
                f"BEiTForMaskedImageModeling: early_layers={early_layers} of {self.depth} blocks. "
                f"Choose 1 .. {self.depth}; the paper uses three quarters of the depth (9 of 12)."
            )
        self.num_codes, self.early_layers, self.share_lm_head = num_codes, early_layers, share_lm_head
        self.lm_head = self._classifier()
        if early_layers is None:
            return
        span = max(self.depth, early_layers + head_layers)
        rates = drop_path_rates(backbone.get("drop_path", 0.0), span)[early_layers:early_layers + head_layers]
        self.cls_pt_layers = nn.LayerList([self._block(rate) for rate in rates])
        for i, block in enumerate(self.cls_pt_layers):
            # These blocks keep PyTorch's default initialisation: the official init runs before they exist.
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                kaiming_uniform_default(layer)
            rescale_block(block, early_layers + i + 1)
        if not share_lm_head:
            self.cls_pt_norm = LayerNorm(self.width, epsilon=backbone.get("norm_eps", 1e-6))
            self.cls_pt_lm_head = self._classifier()

    def forward(  # type: ignore[override]  # a head is what this class adds
        self, images: paddle.Tensor, mask: paddle.Tensor | npt.NDArray[Any]
    ) -> dict[str, paddle.Tensor]:
        """Logits (M, K) at the masked patches only, one entry per head."""
        mask = as_tensor(mask)
        masked_M = paddle.nonzero(mask.reshape([-1])).flatten()  # Paddle 2.6 cannot flatten bool
        if not masked_M.shape[0]:  # nor select by an empty index
            heads = ("mim",) if self.early_layers is None else ("mim", "cls")
            return {head: paddle.zeros([0, self.num_codes]) for head in heads}
        return {head: self.classify(head, x_BTD[:, 1:].reshape([-1, self.width]).index_select(masked_M))
                for head, x_BTD in self.raw_tokens(images, mask).items()}

    def raw_tokens(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Tokens (B, T, D), class token first, that each head normalises and classifies (paper, figure 3)."""
        x_BTD, bias = self.embed(images, mask), self.shared_bias()
        if self.early_layers is None:
            return {"mim": self.run_blocks(self.blocks, x_BTD, bias)}
        blocks = list(self.blocks)
        early_BTD = self.run_blocks(blocks[:self.early_layers], x_BTD, bias)
        final_BTD = self.run_blocks(blocks[self.early_layers:], early_BTD, bias)
        cls_BTD = paddle.concat([final_BTD[:, :1], early_BTD[:, 1:]], axis=1)
        return {"mim": final_BTD, "cls": self.run_blocks(self.cls_pt_layers, cls_BTD, self.shared_bias())}

    def all_logits(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Logits (B, N, K) at every patch, one entry per head (official `return_all_tokens=True`)."""
        return {head: self._lm_head(head)(x_BTD[:, 1:]) for head, x_BTD in self.head_tokens(images, mask).items()}

    def head_tokens(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Normalised tokens (B, T, D) that each head classifies, class token first."""
        return {head: self._normalise(head, x_BTD) for head, x_BTD in self.raw_tokens(images, mask).items()}

    def classify(self, head: str, x: paddle.Tensor) -> paddle.Tensor:
        """Logits (..., K) of raw tokens (..., D) of a head."""
        return self._lm_head(head)(self._normalise(head, x))

    def points(self) -> list[Point]:
        """Those of the trunk; `cls_ptXX...` in the blocks of the [CLS] head, `cls_pt.pre_logits` after them."""
        *points, pre_logits = BEiTBackbone.points(self)
        if self.early_layers is None:
            return [*points, pre_logits]
        points += points_in("cls_pt", self.cls_pt_layers)
        if self.share_lm_head:  # one norm, called for the trunk and then for the head
            return [*points, pre_logits._replace(names=("pre_logits", "cls_pt.pre_logits"))]
        return [*points, pre_logits, Point(self.cls_pt_norm, "out", ("cls_pt.pre_logits",))]

    def _normalise(self, head: str, x: paddle.Tensor) -> paddle.Tensor:
        return self.cls_pt_norm(x) if head == "cls" and not self.share_lm_head else self.normalise(x)

    def _lm_head(self, head: str) -> nn.Layer:
        return self.cls_pt_lm_head if head == "cls" and not self.share_lm_head else self.lm_head

    def _classifier(self) -> Linear:
        classifier = Linear(self.width, self.num_codes)
        trunc_normal(classifier.weight, limit=0.02)
        classifier.bias.set_value(paddle.zeros([self.num_codes]))
        return classifier


def as_tensor(mask: paddle.Tensor | npt.NDArray[Any]) -> paddle.Tensor:
    """A mask (B, N) that is a tensor or the array it will be made of."""
    return paddle.to_tensor(mask) if isinstance(mask, np.ndarray) else mask
