"""Masked image modelling: predict the tokenizer's code of every hidden patch (BEiT v2, pretraining objective).

Shape suffixes: B batch, N patches, T tokens = 1 + N, D width, M masked patches, K codes.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from beitv2_core.errors import ShapeError
from beitv2_core.layers.init import kaiming_uniform_default, rescale_block, trunc_normal
from beitv2_core.layers.layer_norm import LayerNorm
from beitv2_core.layers.linear import Linear
from beitv2_core.models.backbone import BEiTBackbone, drop_path_rates


class BEiTForMaskedImageModeling(BEiTBackbone):
    """The backbone with its code classifier and, with `early_layers`, the patch-aggregation [CLS] head.

    images (B, 3, H, W) ImageNet-normalised, mask (B, N) bool (True = hidden) ->
    {"mim": logits (M, num_codes)} and, with the [CLS] head, {"cls": logits (M, num_codes)}, rows in row-major order
    of the mask.  The head is `head_layers` blocks that read the final class token beside the patches as they left
    block `early_layers` (1-based count of blocks); with `share_lm_head` it uses the trunk's norm and classifier.

    Source: paper section 2.3 and Eq. (3)-(4) region; official modeling_pretrain.py,
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
        self, images: paddle.Tensor, mask: paddle.Tensor
    ) -> dict[str, paddle.Tensor]:
        """Logits (M, K) at the masked patches only, one entry per head."""
        masked_M = paddle.nonzero(mask.reshape([-1])).flatten()
        return {head: self._logits(head, tokens_BTD[:, 1:].reshape([-1, self.width]).index_select(masked_M))
                for head, tokens_BTD in self.head_tokens(images, mask).items()}

    def all_logits(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Logits (B, N, K) at every patch, one entry per head (official `return_all_tokens=True`)."""
        return {head: self._logits(head, tokens_BTD[:, 1:])
                for head, tokens_BTD in self.head_tokens(images, mask).items()}

    def head_tokens(self, images: paddle.Tensor, mask: paddle.Tensor | None = None) -> dict[str, paddle.Tensor]:
        """Normalised tokens (B, T, D) that each head classifies, class token first."""
        if self.early_layers is None:
            return {"mim": self.normalise(self.forward_tokens(images, mask)[0])}
        final_BTD, taps = self.forward_tokens(images, mask, taps=(self.early_layers - 1,))
        x_BTD = paddle.concat([final_BTD[:, :1], taps[self.early_layers - 1][:, 1:]], axis=1)
        bias = self.shared_bias()
        for block in self.cls_pt_layers:
            x_BTD = self.run_block(block, x_BTD, bias)
        normalise = self.normalise if self.share_lm_head else self.cls_pt_norm
        return {"mim": self.normalise(final_BTD), "cls": normalise(x_BTD)}

    def _logits(self, head: str, tokens: paddle.Tensor) -> paddle.Tensor:
        classifier = self.cls_pt_lm_head if head == "cls" and not self.share_lm_head else self.lm_head
        return classifier(tokens)

    def _classifier(self) -> Linear:
        classifier = Linear(self.width, self.num_codes)
        trunc_normal(classifier.weight, limit=0.02)
        classifier.bias.set_value(paddle.zeros([self.num_codes]))
        return classifier
