"""The pixel-wise loss."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import DataError


def pixel_cross_entropy(logits: paddle.Tensor, labels: paddle.Tensor, ignore_index: int = 255) -> paddle.Tensor:
    """Cross-entropy summed over the labelled pixels, divided by the number of all pixels: a scalar.

    logits (B, C, H, W); labels (B, H, W) or (B, 1, H, W), integers.  Ignored pixels count in the divisor, so a batch
    without a labelled pixel gives 0, not NaN.  Raises DataError for a label outside 0 .. C - 1 that is not ignored.
    Source: mmsegmentation 0.11, losses/cross_entropy_loss.py with reduction "mean" and avg_factor None.
    """
    labels = labels.reshape([labels.shape[0], *labels.shape[-2:]]).astype("int64")
    kept = labels != ignore_index
    wrong = paddle.logical_and(kept, paddle.logical_or(labels < 0, labels >= logits.shape[1]))
    if bool(wrong.any()):
        value = int(paddle.masked_select(labels, wrong)[0])
        raise DataError(f"pixel_cross_entropy: a label is {value}, the model has {logits.shape[1]} classes "
                        f"(0 .. {logits.shape[1] - 1}; {ignore_index} is ignored). Check num_classes and the labels.")
    losses = F.cross_entropy(logits.astype("float32"), labels.unsqueeze(1), axis=1, reduction="none",
                             ignore_index=ignore_index)
    return losses.mean()


class BEiTv2CrossEntropyLoss(nn.Layer):
    """`pixel_cross_entropy` as a loss component: averaged over all pixels, ignored ones counting as 0.

    PaddleSeg's own divides by the labelled pixels only; its 2.8.0 wheel also fails on today's Paddle.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Scalar loss of logits (B, C, H, W) and labels (B, H, W)."""
        return pixel_cross_entropy(logits, labels, self.ignore_index)
