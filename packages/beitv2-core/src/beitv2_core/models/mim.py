# SPDX-License-Identifier: Apache-2.0
"""Masked image modelling: predict the tokenizer's code of every hidden patch (BEiT v2, pretraining objective).

Shape suffixes: B batch, N patches, T tokens = 1 + N, D width, M masked patches, K codes.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers.fast.heads import flat_rows
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.linear import Linear
from beitv2_core.layers.init import kaiming_uniform_default, rescale_block, trunc_normal
from beitv2_core.models.backbone import BEiTBackbone, drop_path_rates


class BEiTForMaskedImageModeling(BEiTBackbone):
    """The backbone with its code classifier and, with `early_layers`, the patch-aggregation [CLS] head.

    images (B, 3, H, W) ImageNet-normalised, mask (B, N) bool (True = hidden) ->
    {"mim": logits (M, num_codes)} and, with the [CLS] head, {"cls": logits (M, num_codes)}, rows in row-major order
    of the mask.  The head is `head_layers` blocks that read the final class token beside the patches as they left
    block `early_layers` (1-based count of blocks); with `share_lm_head` it uses the trunk's norm and classifier.
    `skip_unread`: the last block of the trunk and of the head compute only the tokens whose logits are asked for (the
    class token of the trunk among them); losses and gradients are the same.

    Source: paper section 2.3 and Eq. (3)-(4) region; official modeling_pretrain.py,
    VisionTransformerForMaskedImageModelingCLS (with head) and VisionTransformerForMaskedImageModeling (without).
    """

    skip_unread = True

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
        self, images: paddle.Tensor, mask: paddle.Tensor
    ) -> dict[str, paddle.Tensor]:
        """Logits (M, K) at the masked patches only, one entry per head."""
        masked_M = paddle.nonzero(mask.reshape([-1])).flatten()
        read_BQ = self._tokens_to_read(masked_M, mask)
        logits = {}
        for head, tokens_BTD in self._raw_tokens(images, mask, read_BQ).items():
            if read_BQ is None:
                tokens_MD = tokens_BTD[:, 1:].reshape([-1, self.width]).index_select(masked_M)
            else:
                tokens_MD = tokens_BTD.reshape([-1, self.width])
            logits[head] = self._classify(head, self._normalise(head, tokens_MD))
        return logits

    def all_logits(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Logits (B, N, K) at every patch, one entry per head (official `return_all_tokens=True`)."""
        return {head: self._classify(head, tokens_BTD[:, 1:])
                for head, tokens_BTD in self.head_tokens(images, mask).items()}

    def head_tokens(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Normalised tokens (B, T, D) that each head classifies, class token first."""
        return {head: self._normalise(head, tokens_BTD)
                for head, tokens_BTD in self._raw_tokens(images, mask, None).items()}

    def _tokens_to_read(self, masked_M: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor | None:
        """Token numbers (B, M / B) of the masked patches; None where the images hide unequal numbers of them."""
        batch, patches = mask.shape
        if not self.skip_unread or masked_M.shape[0] == 0 or masked_M.shape[0] % batch:
            return None
        position_BQ = masked_M.reshape([batch, -1])
        image_B1 = paddle.arange(batch, dtype="int64").unsqueeze(-1)
        if not bool((position_BQ // patches == image_B1).all()):
            return None
        return position_BQ % patches + 1

    def _raw_tokens(self, images: paddle.Tensor, mask: paddle.Tensor | None,
                    read_BQ: paddle.Tensor | None) -> dict[str, paddle.Tensor]:
        """What each head normalises and classifies: all tokens (B, T, D), or those of `read_BQ` as (B, Q, D)."""
        if self.early_layers is None:
            return {"mim": self.forward_tokens(images, mask, read=read_BQ)[0]}
        early, bias = self.early_layers - 1, self.shared_bias()
        read = None
        if read_BQ is not None and self.early_layers < self.depth:  # else the head reads the last block's patches
            read = paddle.concat([paddle.zeros_like(read_BQ[:, :1]), read_BQ], axis=1)
        final, taps = self.forward_tokens(images, mask, taps=(early,), read=read)
        x_BTD = paddle.concat([final[:, :1], taps[early][:, 1:]], axis=1)
        for i, block in enumerate(self.cls_pt_layers):
            x_BTD = self.run_block(block, x_BTD, bias, read_BQ if i == len(self.cls_pt_layers) - 1 else None)
        if read is not None:
            final = final[:, 1:]
        elif read_BQ is not None:
            rows = flat_rows(read_BQ, final.shape[1])
            final = final.flatten(0, 1).index_select(rows).reshape([*read_BQ.shape, self.width])
        return {"mim": final, "cls": x_BTD}

    def _normalise(self, head: str, tokens: paddle.Tensor) -> paddle.Tensor:
        return self.cls_pt_norm(tokens) if head == "cls" and not self.share_lm_head else self.normalise(tokens)

    def _classify(self, head: str, tokens: paddle.Tensor) -> paddle.Tensor:
        classifier = self.cls_pt_lm_head if head == "cls" and not self.share_lm_head else self.lm_head
        return classifier(tokens)

    def _classifier(self) -> Linear:
        classifier = Linear(self.width, self.num_codes)
        trunc_normal(classifier.weight, limit=0.02)
        classifier.bias.set_value(paddle.zeros([self.num_codes]))
        return classifier
