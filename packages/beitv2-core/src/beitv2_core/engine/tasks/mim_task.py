# SPDX-License-Identifier: Apache-2.0
"""Stage 2: predict the tokenizer's codes of the hidden patches.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import nn

from beitv2_core.engine.feature_monitor import FeatureMonitor
from beitv2_core.engine.step import Precision
from beitv2_core.engine.task import Task
from beitv2_core.errors import ShapeError


class MimTask(Task):
    """Cross-entropy of the codes of the masked patches, summed over the last layer and the [CLS] head.

    `student(patch_view, mask) -> {head: logits (M, K)}` takes the mask as the array that the loader made, so that no
    GPU is waited for to know which patches it hides.  `tokenizer.tokenize(token_view) -> codes (B, N)`, frozen and in
    eval mode, reads `batch_size` images at once (None: all).  cache: a ViewCache or the like; the tokenizer reads only
    those parts of a batch of which some view's codes are missing, but these whole, so that codes do not depend on what
    the cache held.  monitor: a FeatureMonitor, which measures and changes nothing.
    Departs: amp "bf16" or "fp16" lets the tokenizer's encoder use mixed precision; a code then depends on it.
    Source: paper section 2.3, Eq. 3; official engine_for_pretraining.py, train_one_epoch.
    Departs: a batch whose masks hide nothing at all is an error; the mean of no losses is NaN, on which the official
    code ends.
    Raises ShapeError for such a batch and where the tokenizer's code map and the mask differ in size, ConfigError for
    amp that this device does not compute.
    """

    def __init__(self, student: nn.Layer, tokenizer: nn.Layer, *, batch_size: int | None = None, amp: str = "off",
                 cache: Any = None, monitor: FeatureMonitor | None = None):
        self.model, self.network = student, student
        self.tokenizer, self.batch_size, self.cache, self.monitor = tokenizer, batch_size, cache, monitor
        self.amp = Precision(amp, off="tokenizer.amp=off").amp
        tokenizer.eval()
        for parameter in tokenizer.parameters():
            parameter.stop_gradient = True

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Loss and metrics (`loss_mim`, `acc_mim`, ...) of one `MimBatch` of numpy arrays."""
        codes_M = self.masked_codes(batch.token_view, batch.mask, batch.rows)
        logits = self.network(paddle.to_tensor(batch.patch_view), batch.mask)
        metrics: dict[str, paddle.Tensor] = {}
        total = None
        for head, logits_MK in logits.items():
            loss = F.cross_entropy(logits_MK.astype("float32"), codes_M)
            total = loss if total is None else total + loss
            metrics[f"loss_{head}"] = loss.detach()
            predicted_M = logits_MK.detach().argmax(-1)
            correct_M = (predicted_M == codes_M).astype("float32")
            metrics[f"acc_{head}"] = correct_M.mean()
            if head == "mim" and self.monitor is not None and self.model.training:
                self.monitor.track(codes_M, predicted_M)
        return total, metrics

    @paddle.no_grad()
    def masked_codes(self, token_view: NDArray[Any], mask_BN: NDArray[Any],
                     rows: NDArray[Any] | None = None) -> paddle.Tensor:
        """Codes (M,) int64 of the hidden patches, row by row of the mask; rows: their numbers in the cache."""
        codes_BN = self._codes(token_view, rows)
        if list(codes_BN.shape) != list(mask_BN.shape):
            raise ShapeError(
                f"MimTask: the tokenizer gives {codes_BN.shape[1]} codes an image, the mask has {mask_BN.shape[1]} "
                "patches. Set the tokenizer's image size so that both grids agree."
            )
        masked_M = np.flatnonzero(mask_BN.reshape(-1))
        if not len(masked_M):
            raise ShapeError(
                f"MimTask: the masks of all {len(mask_BN)} images of a batch hide none of their {mask_BN.shape[1]} "
                "patches, so there is no code to predict. Choose a mask that hides some in every batch (mask.kind, "
                "mask.num_masked, mask.options)."
            )
        return codes_BN.reshape([-1]).index_select(paddle.to_tensor(masked_M))

    def _codes(self, token_view: NDArray[Any], rows: NDArray[Any] | None) -> paddle.Tensor:
        size = self.batch_size or len(token_view)
        parts = []
        for start in range(0, len(token_view), size):
            view = token_view[start:start + size]
            if self.cache is None:
                parts.append(self._tokenize(view))
                continue
            numbers = None if rows is None else rows[start:start + size]
            parts.append(paddle.to_tensor(self.cache.read_or_compute(
                numbers, view, lambda images: self._tokenize(images).numpy(), whole_batches=True)))
        return parts[0] if len(parts) == 1 else paddle.concat(parts)

    def _tokenize(self, view: NDArray[Any]) -> paddle.Tensor:
        images = paddle.to_tensor(view)
        return self.tokenizer.tokenize(images) if self.amp == "off" else self.tokenizer.tokenize(images, amp=self.amp)

    def after_step(self, *, step: int) -> dict[str, float] | None:
        """What the monitor measures where it is due."""
        due = self.monitor is not None and self.monitor.due(step)
        return self.monitor.measure(self.model) if due and self.monitor is not None else None

    def log_values(self) -> dict[str, float]:
        """With a cache: the share of views since the last call whose codes it held; and what the monitor counted."""
        cached = {} if self.cache is None else {"codes_cached": self.cache.share_read()}
        return cached if self.monitor is None else {**cached, **self.monitor.log_values()}

    def state(self) -> dict[str, Any]:
        """What the monitor counted since the last log line."""
        return {} if self.monitor is None else {"monitor": self.monitor.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave; the monitor may have been switched on or off since."""
        if self.monitor is not None and "monitor" in state:
            self.monitor.load_state(state["monitor"])

    def frozen(self) -> dict[str, paddle.Tensor]:
        """The tokenizer's weights and codebook."""
        return dict(self.tokenizer.state_dict())

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay (official `no_weight_decay`)."""
        return set(self.model.no_weight_decay())
