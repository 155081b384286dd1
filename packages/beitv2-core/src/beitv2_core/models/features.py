# SPDX-License-Identifier: Apache-2.0
"""The features of an image that are compared, searched and classified: one definition for every command.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

from typing import Any

import paddle

from beitv2_core.errors import ShapeError

#: what `feature_of` gives
FEATURES = ("mean", "cls", "patches")


def reads_norm(backbone: Any) -> bool:
    """Whether what follows a backbone reads it after its norm: classifiers, and trunks that end in `fc_norm`.

    The norm of a pretraining model stands before its code classifier only, and the official fine-tuning does not load
    it; what is fine-tuned on such a model starts from raw tokens.
    """
    return backbone.fc_norm is not None or hasattr(backbone, "features")


def block_tokens(backbone: Any, images: paddle.Tensor, block: int | None = None) -> paddle.Tensor:
    """Raw tokens (B, T, D) after block `block`, counted from 1; None: after the last.  Later blocks are not computed.

    images: as the backbone takes them, normalised.  Raises ShapeError for a block that is not there.
    """
    if block is None:
        return backbone.forward_tokens(images)[0]
    if not 1 <= block <= backbone.depth:
        raise ShapeError(f"block {block}: this model has the blocks 1 .. {backbone.depth}.")
    return backbone.run_blocks(list(backbone.blocks)[:block], backbone.embed(images), backbone.shared_bias())


def feature_of(backbone: Any, tokens_BTD: paddle.Tensor, what: str = "mean", *,
               normalised: bool | None = None) -> paddle.Tensor:
    """"mean" (B, D) of the patch tokens, "cls" (B, D), the class token, or "patches" (B, N, D), row by row, float32.

    tokens_BTD: raw tokens of the last block.  normalised: after the model's norm; None: as `reads_norm` says.  With
    `fc_norm` the mean is normalised, not its patches: what the head of a fine-tuned model reads.
    Source: official modeling_finetune.py, forward_features and `return_patch_tokens`.
    """
    if reads_norm(backbone) if normalised is None else normalised:
        if what == "mean" and backbone.fc_norm is not None:
            return backbone.fc_norm(tokens_BTD[:, 1:].mean(axis=1)).astype("float32")
        tokens_BTD = backbone.normalise(tokens_BTD)
    if what == "cls":
        return tokens_BTD[:, 0].astype("float32")
    return (tokens_BTD[:, 1:].mean(axis=1) if what == "mean" else tokens_BTD[:, 1:]).astype("float32")
