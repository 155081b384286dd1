# SPDX-License-Identifier: Apache-2.0
"""The pixel-wise loss."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import ConfigError, DataError
from beitv2_core.layers.fast import onednn
from beitv2_core.layers.fast.layout import transpose
from beitv2_core.layers.fast.linear import on_cpu


def pixel_cross_entropy(logits: paddle.Tensor, labels: paddle.Tensor, ignore_index: int = 255,
                        class_weight: Sequence[float] | None = None) -> paddle.Tensor:
    """Cross-entropy summed over the labelled pixels, divided by the number of all pixels: a scalar.

    logits (B, C, H, W); labels (B, H, W) or (B, 1, H, W), integers.  Ignored pixels count in the divisor, so a batch
    without a labelled pixel gives 0, not NaN.  class_weight: factor of the loss of every class's pixels (off in the
    paper's recipes).  Raises DataError for a label outside 0 .. C - 1 that is not ignored.
    Source: mmsegmentation 0.11, losses/cross_entropy_loss.py with reduction "mean" and avg_factor None.
    """
    labels = labels.reshape([labels.shape[0], *labels.shape[-2:]]).astype("int64")
    kept = labels != ignore_index
    wrong = paddle.logical_and(kept, paddle.logical_or(labels < 0, labels >= logits.shape[1]))
    if bool(wrong.any()):
        value = int(paddle.masked_select(labels, wrong)[0])
        raise DataError(f"pixel_cross_entropy: a label is {value}, the model has {logits.shape[1]} classes "
                        f"(0 .. {logits.shape[1] - 1}; {ignore_index} is ignored). Check num_classes and the labels.")
    scores, axis, targets = logits.astype("float32"), 1, labels.unsqueeze(1)
    # Classes last: over another axis Paddle's CPU softmax takes three times as long.
    if on_cpu(logits) and onednn.usable():
        scores, axis, targets = transpose(scores, [0, 2, 3, 1]), -1, labels.unsqueeze(-1)
    losses = F.cross_entropy(scores, targets, axis=axis, reduction="none", ignore_index=ignore_index)
    if class_weight is not None:
        if len(class_weight) != logits.shape[1] or min(class_weight) < 0:
            raise ConfigError(f"pixel_cross_entropy: {len(class_weight)} class weights for {logits.shape[1]} classes, "
                              f"the smallest {min(class_weight)}. Give one of at least 0 for each class.")
        factors = paddle.to_tensor(list(class_weight), dtype="float32")
        losses = losses * paddle.gather(factors, paddle.where(kept, labels, 0).reshape([-1])).reshape(losses.shape)
    return losses.mean()


class BEiTv2CrossEntropyLoss(nn.Layer):
    """`pixel_cross_entropy` as a loss component: averaged over all pixels, ignored ones counting as 0.

    ignore_index: label of pixels without a class; class_weight: factor of each class, or null.
    PaddleSeg's own divides by the labelled pixels only; its 2.8.0 wheel also fails on today's Paddle.
    """

    def __init__(self, ignore_index: int = 255, class_weight: Sequence[float] | None = None):
        super().__init__()
        self.ignore_index, self.class_weight = ignore_index, class_weight

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Scalar loss of logits (B, C, H, W) and labels (B, H, W)."""
        return pixel_cross_entropy(logits, labels, self.ignore_index, self.class_weight)
