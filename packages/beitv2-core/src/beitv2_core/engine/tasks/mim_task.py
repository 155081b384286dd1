# SPDX-License-Identifier: Apache-2.0
"""Stage 2: predict the tokenizer's codes of the hidden patches.

Shape suffixes: B batch, N patches, M masked patches, K codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import nn

from beitv2_core.engine.step import Precision
from beitv2_core.engine.task import Task
from beitv2_core.errors import ShapeError


class MimTask(Task):
    """Cross-entropy of the codes of the masked patches, summed over the last layer and the [CLS] head.

    `student(patch_view, mask) -> {head: logits (M, K)}`; `tokenizer.tokenize(token_view) -> codes (B, N)`, frozen and
    in eval mode, reads `batch_size` images at once (None: all).  cache: a CodeCache or the like; the tokenizer reads
    only those parts of a batch where some view's codes are not there, but these whole, so that codes do not depend on
    what was there.
    Departs: amp "bf16" or "fp16" lets the tokenizer's encoder use mixed precision on a GPU; a code then depends on it.
    Source: paper section 2.3; official engine_for_pretraining.py, train_one_epoch.
    Raises ShapeError where the tokenizer's code map and the mask differ in size, ConfigError for amp without a GPU.
    """

    def __init__(self, student: nn.Layer, tokenizer: nn.Layer, *, batch_size: int | None = None, amp: str = "off",
                 cache: Any = None):
        self.model, self.network = student, student
        self.tokenizer, self.batch_size, self.cache = tokenizer, batch_size, cache
        self.amp = Precision(amp, off="tokenizer.amp=off").amp
        tokenizer.eval()
        for parameter in tokenizer.parameters():
            parameter.stop_gradient = True

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Loss and metrics (`loss_mim`, `acc_mim`, ...) of one `MimBatch` of numpy arrays."""
        mask_BN = paddle.to_tensor(batch.mask)
        codes_M = self.masked_codes(batch.token_view, batch.mask, batch.rows)
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
    def masked_codes(self, token_view: NDArray[Any], mask_BN: NDArray[Any],
                     rows: NDArray[Any] | None = None) -> paddle.Tensor:
        """Codes (M,) int64 of the hidden patches, row by row of the mask; rows: which views of the cache they are."""
        codes_BN = self._codes(token_view, rows)
        if list(codes_BN.shape) != list(mask_BN.shape):
            raise ShapeError(
                f"MimTask: the tokenizer gives {codes_BN.shape[1]} codes an image, the mask has {mask_BN.shape[1]} "
                "patches. Set the tokenizer's image size so that both grids agree."
            )
        hidden = np.flatnonzero(mask_BN.reshape(-1))
        return codes_BN.reshape([-1]).index_select(paddle.to_tensor(hidden))

    def _codes(self, token_view: NDArray[Any], rows: NDArray[Any] | None) -> paddle.Tensor:
        size = self.batch_size or len(token_view)
        parts = []
        for start in range(0, len(token_view), size):
            view = token_view[start:start + size]
            if self.cache is None:
                parts.append(self._tokenize(view))
                continue
            if rows is None or len(rows) != len(token_view):
                raise ShapeError(f"MimTask: {len(token_view)} views came with the numbers of "
                                 f"{0 if rows is None else len(rows)}; a cache needs one for each. Give "
                                 "MimTransform the number of views.")
            numbers = rows[start:start + size]
            known_BN, there = self.cache.read(numbers)
            if not there.all():
                fresh_BN = self._tokenize(view).numpy()
                self.cache.write(numbers[~there], fresh_BN[~there])
                known_BN = np.where(there[:, None], known_BN, fresh_BN)
            parts.append(paddle.to_tensor(known_BN))
        return parts[0] if len(parts) == 1 else paddle.concat(parts)

    def _tokenize(self, view: NDArray[Any]) -> paddle.Tensor:
        images = paddle.to_tensor(view)
        return self.tokenizer.tokenize(images) if self.amp == "off" else self.tokenizer.tokenize(images, amp=self.amp)

    def log_values(self) -> dict[str, float]:
        """With a cache: the share of views since the last call whose codes were there."""
        return {} if self.cache is None else {"codes_cached": self.cache.share_read()}

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay (official `no_weight_decay`)."""
        return set(self.model.no_weight_decay())
