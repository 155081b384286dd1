"""Pictures, from the disk or drawn on the fly, to batches of numpy arrays. Needs numpy and Pillow, not Paddle."""

from __future__ import annotations

from .corrupt import CorruptFiles
from .digit_scenes import DigitScenes
from .folder import ImageFolder
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
from .sample import Dataset, Sample
from .sampler import ResumableSampler
from .shards import ShardSet

__all__ = [
    "CorruptFiles",
    "Dataset",
    "DigitScenes",
    "EvalTransform",
    "ImageFolder",
    "LabelledBatch",
    "Loader",
    "MimBatch",
    "MimTransform",
    "ResumableSampler",
    "Sample",
    "SampleRng",
    "ShardSet",
    "TokenizerBatch",
    "TokenizerTransform",
]
