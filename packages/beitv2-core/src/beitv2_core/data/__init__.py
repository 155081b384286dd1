# SPDX-License-Identifier: Apache-2.0
"""Pictures, from the disk or drawn on the fly, to batches of numpy arrays. Needs numpy and Pillow, not Paddle."""

from __future__ import annotations

from .corrupt import CorruptFiles
from .digit_scenes import DigitScenes
from .eval_batches import ImageFiles, eval_batches
from .folder import ImageFolder
from .image_file import Reading, decode
from .lists import read_images, read_labelled, read_pairs
from .loader import Loader
from .pretrain_set import (
    EvalTransform,
    LabelledBatch,
    MimBatch,
    MimTransform,
    TokenizerBatch,
    TokenizerTransform,
)
from .rng import SampleRng
from .sample import Chosen, Dataset, Sample, spread
from .sampler import ResumableSampler
from .shards import ShardSet

__all__ = [
    "Chosen",
    "CorruptFiles",
    "Dataset",
    "DigitScenes",
    "EvalTransform",
    "ImageFiles",
    "ImageFolder",
    "LabelledBatch",
    "Loader",
    "MimBatch",
    "MimTransform",
    "Reading",
    "ResumableSampler",
    "Sample",
    "SampleRng",
    "ShardSet",
    "TokenizerBatch",
    "TokenizerTransform",
    "decode",
    "eval_batches",
    "read_images",
    "read_labelled",
    "read_pairs",
    "spread",
]
