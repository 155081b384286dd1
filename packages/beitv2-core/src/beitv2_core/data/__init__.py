# SPDX-License-Identifier: Apache-2.0
"""Images, from the disk or drawn on the fly, to batches of numpy arrays. Needs numpy and Pillow, not Paddle."""

from __future__ import annotations

from .eval_batches import ImageFiles, eval_batches, eval_reader, ordered_reader
from .loader import Loader
from .rng import SampleRng
from .sampler import ResumableSampler
from .sources.corrupt import CorruptFiles
from .sources.digit_scenes import DigitScenes
from .sources.folder import ImageFolder
from .sources.image_file import Reading, decode
from .sources.lists import read_images, read_labelled, read_pairs
from .sources.sample import Chosen, Dataset, Sample, spread
from .sources.shards import ShardSet
from .views.recipes import EvalTransform, LabelledBatch, MimBatch, MimTransform, TokenizerBatch, TokenizerTransform
from .workers import BatchReader, Transform

__all__ = [
    "BatchReader",
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
    "Transform",
    "decode",
    "eval_batches",
    "eval_reader",
    "ordered_reader",
    "read_images",
    "read_labelled",
    "read_pairs",
    "spread",
]
