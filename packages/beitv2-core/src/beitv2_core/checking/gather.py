# SPDX-License-Identifier: Apache-2.0
"""All images of a split, looked at by all processor cores; what is kept of each is a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from ..data import SampleRng, ordered_reader
from .look import DIGEST, Look
from .parts import Part

#: images that a process looks at in one go
BATCH = 64


class Found:
    """What was found in the images of one split, in their order; about 60 bytes an image.

    width, height, turn, spread: as in `Look`; content, pixels: digests, uint8 (N, 16); print: uint64 (N,).
    broken: number -> reason.  modes, kinds: name -> images.  counts: pixels of each class and, last, of none, of all
    images; having: images with pixels of each class.  faults: (number, kind, sentence).
    """

    def __init__(self, images: int) -> None:
        self.width, self.height = np.zeros(images, np.int32), np.zeros(images, np.int32)
        self.turn, self.spread = np.ones(images, np.uint8), np.full(images, -1, np.int32)
        self.content, self.pixels = (np.zeros((images, DIGEST), np.uint8) for _ in range(2))
        self.print = np.zeros(images, np.uint64)
        self.alpha = 0
        self.broken: dict[int, str] = {}
        self.modes: dict[str, int] = {}
        self.kinds: dict[str, int] = {}
        self.counts: Optional[np.ndarray] = None
        self.having: Optional[np.ndarray] = None
        self.faults: list[tuple[int, str, str]] = []

    @property
    def read(self) -> np.ndarray:
        """The numbers of the images that can be read."""
        return np.setdiff1d(np.arange(len(self.width)), np.fromiter(self.broken, np.int64, len(self.broken)))

    def add(self, start: int, looks: dict[str, Any]) -> None:
        """Keep the looks at consecutive images from number `start` on, stacked by `stack_samples`."""
        count = len(looks["width"])
        here = slice(start, start + count)
        for name in ("width", "height", "turn", "spread"):
            getattr(self, name)[here] = looks[name]
        self.print[here] = looks["print"].astype(np.uint64)
        self.alpha += int(np.sum(looks["alpha"]))
        for name in ("content", "pixels"):
            for row, digest in enumerate(looks[name], start):
                if digest:
                    getattr(self, name)[row] = np.frombuffer(digest, np.uint8)
        for row, reason in enumerate(looks["broken"], start):
            if reason:
                self.broken[row] = reason
        for names, counted in ((looks["mode"], self.modes), (looks["kind"], self.kinds)):
            for name in names:
                if name:
                    counted[name] = counted.get(name, 0) + 1
        for row, ((counts,), faults) in enumerate(zip(looks["counts"], looks["faults"]), start):
            self.faults += [(row, kind, words) for kind, words in faults]
            if counts is not None:
                self.counts = counts.copy() if self.counts is None else self.counts + counts
                having = (counts > 0).astype(np.int64)
                self.having = having if self.having is None else self.having + having


def gather(part: Part, num_workers: int, advance: Callable[[int], None]) -> Found:
    """Look at every image of a split; advance(images done) is called as it goes on.

    num_workers: processes that open files; what is found is the same for any number.
    """
    found = Found(part.images)
    if part.looks is None:
        return found
    done = 0
    with ordered_reader(part.looks, _as_dict, batches=-(-part.images // BATCH), num_workers=num_workers) as reader:
        for looks in reader.in_order(range(part.images), BATCH):
            found.add(done, looks)
            done += len(looks["width"])
            advance(done)
    return found


def _as_dict(look: Look, rng: SampleRng) -> dict[str, Any]:
    """A look as a sample of the reader, which stacks arrays: counts are there for some images only, so they are not."""
    return {**look._asdict(), "counts": (look.counts,)}
