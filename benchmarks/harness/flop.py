# SPDX-License-Identifier: Apache-2.0
"""GFLOP of one image: what the official models compute, a multiplication and an addition counting as two.

Counted are the matrix products; a backward pass costs twice the forward one, but for the patch embedding, whose input
needs no gradient.  tests/house/test_benchmarks.py holds the numbers the results are quoted with.
"""

from __future__ import annotations

WIDTH, DEPTH, PATCH = 768, 12, 16
NUM_CODES, CODE_DIM, NUM_MASKED, TEACHER_WIDTH = 8192, 32, 75, 512
#: of UPerNet, base, 150 classes, 512 pixels: counted operation by operation, its heads are convolutions
SEGMENT_FORWARD, SEGMENT_STEP = 1210.0, 3640.0


def blocks(patches: int, depth: int, width: int = WIDTH) -> float:
    """Forward pass of `depth` blocks over the patches and the class token."""
    tokens = patches + 1
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width) / 1e9


def embedding(patches: int, channels: int = 3 * PATCH**2) -> float:
    """Forward pass of the patch embedding."""
    return 2 * patches * channels * WIDTH / 1e9


def linear(rows: int, inputs: int, outputs: int) -> float:
    """Forward pass of a linear layer."""
    return 2 * rows * inputs * outputs / 1e9


def patches_of(image_size: int) -> int:
    """Patches of a square image."""
    return (image_size // PATCH) ** 2


def finetune_forward(image_size: int = 224) -> float:
    """A classifier's forward pass; its head is too small to count."""
    return blocks(patches_of(image_size), DEPTH) + embedding(patches_of(image_size))


def finetune_step(image_size: int = 224) -> float:
    """Forward and backward pass of the classifier."""
    return 3 * finetune_forward(image_size) - embedding(patches_of(image_size))


def tokenizer_encode() -> float:
    """Encoder, projection and nearest code."""
    return finetune_forward() + _to_codes(196) + linear(196, CODE_DIM, NUM_CODES)


def tokenizer_step(decoder_depth: int = 3) -> float:
    """Training step of the tokenizer: the nearest code has no backward pass, the teacher is not counted."""
    trained = (finetune_forward() + _to_codes(196) + embedding(196, CODE_DIM) + blocks(196, decoder_depth)
               + linear(196, WIDTH, WIDTH) + linear(196, WIDTH, TEACHER_WIDTH))
    return 3 * trained - embedding(196) + linear(196, CODE_DIM, NUM_CODES)


def pretrain_step(*, head_layers: int = 2, classified: tuple[int, ...] = (NUM_MASKED, NUM_MASKED)) -> float:
    """Pretraining step without the tokenizer; `classified`: patches that each head classifies."""
    forward = blocks(196, DEPTH + head_layers) + embedding(196)
    forward += sum(linear(count, WIDTH, NUM_CODES) for count in classified)
    return 3 * forward - embedding(196)


def _to_codes(patches: int) -> float:
    return linear(patches, WIDTH, WIDTH) + linear(patches, WIDTH, CODE_DIM)
