# SPDX-License-Identifier: Apache-2.0
"""The image classifier: core's trunk, pooled tokens, one linear layer.

Shape suffixes: B batch, D width, C classes.
"""

from __future__ import annotations

from typing import Any

import paddle

from beitv2_core.errors import ConfigError
from beitv2_core.layers.fast.linear import Linear
from beitv2_core.layers.init import scale, trunc_normal
from beitv2_core.models.backbone import BEiTBackbone


class BEiTClassifier(BEiTBackbone):
    """BEiT v2 with a classifier: images (B, 3, H, W), ImageNet-normalised -> logits (B, num_classes).

    pooling "mean": the mean of the patch tokens, then `fc_norm` (the published models); "cls": the class token after
    `norm`.  `head_scale` multiplies the fresh head's weight and bias.  Other keywords are `BEiTBackbone`'s.
    Raises ConfigError for fewer than 2 classes or another pooling.
    Source: official modeling_finetune.py, VisionTransformer; run_class_finetuning.py (init_scale 0.001).
    """

    def __init__(self, *, num_classes: int, pooling: str = "mean", head_scale: float = 0.001, **backbone: Any):
        if num_classes < 2:
            raise ConfigError(f"BEiTClassifier: num_classes is {num_classes}; a classifier needs at least 2.")
        if pooling not in ("mean", "cls"):
            raise ConfigError(f"BEiTClassifier: pooling is {pooling!r}; expected 'mean' or 'cls'.")
        super().__init__(**backbone, norm="pool" if pooling == "mean" else "final")
        self.num_classes, self.pooling = num_classes, pooling
        self.head = Linear(self.width, num_classes)
        trunc_normal(self.head.weight, limit=2.0)
        scale(self.head.weight, head_scale)
        self.head.bias.set_value(paddle.zeros([num_classes]))

    def forward(  # type: ignore[override]  # a head is what this class adds
        self, images: paddle.Tensor
    ) -> paddle.Tensor:
        """Logits (B, C)."""
        return self.head(self.features(images))

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        """Pooled features (B, D): what the head reads."""
        # Not super(): Paddle 2.6 cannot turn it into a static graph, and export would fail.
        return BEiTBackbone.forward(self, images)


def without_decay(model: BEiTClassifier, *, decay_rel_pos_bias: bool = True) -> set[str]:
    """Structured names that never decay, besides 1-D parameters and biases.

    decay_rel_pos_bias: False spares the blocks' own relative position bias tables too; a table that the blocks share
    decays all the same.
    Source: official run_class_finetuning.py, `skip_weight_decay_list`.
    """
    spared = set(model.no_weight_decay())
    if not decay_rel_pos_bias:
        spared |= {f"blocks.{i}.attn.relative_position_bias_table" for i in range(model.depth)}
    return spared
