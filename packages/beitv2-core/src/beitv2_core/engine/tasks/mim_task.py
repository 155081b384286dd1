"""Stage 2: predict the tokenizer's codes of the hidden patches.

Shape suffixes: B batch, N patches, M masked patches, K codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from beitv2_core.errors import ShapeError


class MimTask:
    """Cross-entropy of the codes of the masked patches, summed over the last layer and the [CLS] head.

    `student(patch_view, mask) -> {head: logits (M, K)}`; `tokenizer.tokenize(token_view) -> codes (B, N)`, frozen and
    in eval mode.  Source: paper section 2.3; official engine_for_pretraining.py, train_one_epoch.
    Raises ShapeError where the tokenizer's code map and the mask differ in size.
    """

    finished = False

    def __init__(self, student: nn.Layer, tokenizer: nn.Layer):
        self.model, self.network = student, student
        self.tokenizer = tokenizer
        tokenizer.eval()
        for parameter in tokenizer.parameters():
            parameter.stop_gradient = True

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Loss and metrics (`loss_mim`, `acc_mim`, ...) of one `MimBatch` of numpy arrays."""
        mask_BN = paddle.to_tensor(batch.mask)
        codes_M = self.masked_codes(paddle.to_tensor(batch.token_view), batch.mask)
        logits = self.network(paddle.to_tensor(batch.patch_view), mask_BN)
        metrics: dict[str, paddle.Tensor] = {}
        total = None
        for head, logits_MK in logits.items():
            loss = F.cross_entropy(logits_MK.astype("float32"), codes_M)
            total = loss if total is None else total + loss
            metrics[f"loss_{head}"] = loss.detach()
            correct = (logits_MK.detach().argmax(-1) == codes_M).astype("float32")
            metrics[f"acc_{head}"] = correct.mean()
        return total, metrics

    @paddle.no_grad()
    def masked_codes(self, token_view: paddle.Tensor, mask_BN: np.ndarray) -> paddle.Tensor:
        """Codes (M,) int64 of the hidden patches, row by row of the mask."""
        codes_BN = self.tokenizer.tokenize(token_view)
        if list(codes_BN.shape) != list(mask_BN.shape):
            raise ShapeError(
                f"MimTask: the tokenizer gives {codes_BN.shape[1]} codes a picture, the mask has {mask_BN.shape[1]} "
                "patches. Set the tokenizer's picture size so that both grids agree."
            )
        hidden = np.flatnonzero(mask_BN.reshape(-1))
        return codes_BN.reshape([-1]).index_select(paddle.to_tensor(hidden))

    def before_step(self, batch: Any, *, step: int) -> None:
        """Nothing to prepare."""

    def after_step(self, *, step: int) -> None:
        """Nothing follows the weights."""

    def on_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch."""

    def log_values(self) -> dict[str, float]:
        """Nothing beyond the metrics of `loss`."""
        return {}

    def state(self) -> dict[str, Any]:
        """No state besides the student's weights."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """No state besides the student's weights."""

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay (official `no_weight_decay`)."""
        return self.model.no_weight_decay()
