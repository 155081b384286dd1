# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy with soft targets.

Shape suffixes: B batch, C classes.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def soft_cross_entropy(logits_BC: paddle.Tensor, targets_BC: paddle.Tensor) -> paddle.Tensor:
    """Mean over the batch of -sum(targets * log_softmax(logits)), in float32.  Source: timm SoftTargetCrossEntropy."""
    log_probs = F.log_softmax(logits_BC.astype("float32"), axis=-1)
    return -(targets_BC.astype("float32") * log_probs).sum(-1).mean()
