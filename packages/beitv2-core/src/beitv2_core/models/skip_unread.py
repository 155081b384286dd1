# SPDX-License-Identifier: Apache-2.0
"""Masked image modelling without tokens whose output is not needed: the model that training runs.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from beitv2_core.layers.attention import take_tokens
from beitv2_core.models.mim import BEiTForMaskedImageModeling, as_tensor


class SkipUnread(BEiTForMaskedImageModeling):
    """The same model, names and logits, where the last block of trunk and of head computes only what is read of it.

    That is the masked patches, and of the trunk also the class token which the head reads.  Losses and gradients are
    the same up to the order of sums.  A batch whose images hide unequal numbers of patches is computed in full.
    mask: best the array (B, N) that the loader made, whose numbers are known; a tensor on a GPU is waited for.
    """

    def forward(  # type: ignore[override]  # as in the class above
        self, images: paddle.Tensor, mask: paddle.Tensor | npt.NDArray[Any]
    ) -> dict[str, paddle.Tensor]:
        """Logits (M, K) at the masked patches only, one entry per head."""
        masked = masked_tokens(mask if isinstance(mask, np.ndarray) else mask.numpy())
        if masked is None:
            return BEiTForMaskedImageModeling.forward(self, images, mask)
        masked_BQ = paddle.to_tensor(masked)
        x_BTD, bias = self.embed(images, as_tensor(mask)), self.shared_bias()
        blocks, early = list(self.blocks), self.early_layers
        if early is None:
            tokens = {"mim": self.run_blocks(blocks, x_BTD, bias, masked_BQ)}
        else:
            early_BTD = self.run_blocks(blocks[:early], x_BTD, bias)
            if early < self.depth:
                read_BQ = paddle.concat([paddle.zeros_like(masked_BQ[:, :1]), masked_BQ], axis=1)
                final_BQD = self.run_blocks(blocks[early:], early_BTD, bias, read_BQ)
                masked_BQD = final_BQD[:, 1:]
            else:  # the head reads the patches of the last block: all of them
                final_BQD, masked_BQD = early_BTD, take_tokens(early_BTD, masked_BQ)
            cls_BTD = paddle.concat([final_BQD[:, :1], early_BTD[:, 1:]], axis=1)
            cls_BQD = self.run_blocks(self.cls_pt_layers, cls_BTD, self.shared_bias(), masked_BQ)
            tokens = {"mim": masked_BQD, "cls": cls_BQD}
        return {head: self.classify(head, x_BQD.reshape([-1, self.width])) for head, x_BQD in tokens.items()}


def masked_tokens(mask_BN: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Numbers (B, M / B) of the masked patches' tokens; None unless the images hide equal numbers, and any."""
    counts = mask_BN.sum(1)
    if counts.size == 0 or counts[0] == 0 or (counts != counts[0]).any():
        return None
    return np.nonzero(mask_BN)[1].reshape(len(mask_BN), -1) + 1
