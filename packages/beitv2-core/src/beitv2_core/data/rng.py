# SPDX-License-Identifier: Apache-2.0
"""Random generators that belong to one sample, so that results do not depend on worker, rank or batch size."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from ..errors import DataError


def derive_seed(*parts: object) -> int:
    """Turn any parts (numbers, names) into one 64-bit seed; nearby parts give unrelated seeds."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class SampleRng:
    """The two generators the official code draws from, private to one sample of one epoch.

    python: `random.Random` (crops, flips, jitter, block sizes); numpy: `np.random.RandomState` (mask top-up).
    Departs: the official scripts draw from the global generators, which are never seeded (README fact 35) and depend on
    the number of workers; given the same generators the draws are the same.
    """

    __slots__ = ("python", "_numpy", "_numpy_seed", "key")

    def __init__(
        self, python: random.Random, numpy: np.random.RandomState | None = None, *, numpy_seed: int = 0
    ) -> None:
        self.python = python
        self._numpy = numpy
        self._numpy_seed = numpy_seed
        self.key: tuple[int, int, int] | None = None  # (seed, epoch, index) it was made for

    @property
    def numpy(self) -> np.random.RandomState:
        """The numpy generator, made on first use (most samples never need it)."""
        if self._numpy is None:
            self._numpy = np.random.RandomState(self._numpy_seed)
        return self._numpy

    @classmethod
    def for_sample(cls, seed: int, epoch: int, index: int) -> SampleRng:
        """Generators that depend on (seed, epoch, index) only, not on worker, rank or batch size."""
        return cls._of((seed, epoch, index), derive_seed(seed, epoch, index))

    def fork(self, name: str) -> SampleRng:
        """Independent generators of the same sample and epoch; needs generators made by `for_sample`."""
        if self.key is None:
            raise DataError(f"SampleRng: {name!r} was forked from generators that belong to no sample.")
        return self._of(self.key, derive_seed(name, *self.key))

    @classmethod
    def _of(cls, key: tuple[int, int, int], mixed: int) -> SampleRng:
        made = cls(random.Random(mixed), numpy_seed=mixed & 0xFFFFFFFF)
        made.key = key
        return made

    @classmethod
    def from_seed(cls, seed: int) -> SampleRng:
        """Both generators seeded with the same number, as `random.seed(s); np.random.seed(s)` would."""
        return cls(random.Random(seed), numpy_seed=seed)
