# SPDX-License-Identifier: Apache-2.0
"""Which images of a data set are left out of training, for measuring."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError


def held_out_numbers(names: Sequence[str], count: int) -> np.ndarray:
    """The numbers of the images of `count` names, int64 in order; a function of the set of names and the count alone.

    The sorted names are cut into `count` parts of nearly equal length, and a hash of the first name of each part says
    which one of it is taken: spread evenly over folders and over time, and of no fixed step, which would meet every
    n-th camera or class.  All images of a name that was taken are among them: a list may name a file twice.
    """
    different = sorted(set(names))
    edges = [len(different) * part // count for part in range(count + 1)]
    taken = {different[first + _place(different[first], end - first)] for first, end in zip(edges, edges[1:])}
    return np.asarray([number for number, name in enumerate(names) if name in taken], dtype=np.int64)


def keep_part(dataset: Any, count: int, *, held_out: bool) -> None:
    """Keep of a data set, in place, the images that are held out, or else the others.

    dataset: with `names()` and `keep(numbers)` (`ImageSource`).  Raises DataError where nothing would be left.
    """
    names = dataset.names()
    different = len(set(names))
    if count >= different:
        raise DataError(f"data.held_out: {count} of {different} different images are to be held out, which leaves none "
                        f"to train on; expected at most {different - 1}. Lower data.held_out, or give more images.")
    out = held_out_numbers(names, count)
    dataset.keep(out if held_out else np.setdiff1d(np.arange(len(names)), out, assume_unique=True))


def _place(name: str, size: int) -> int:
    """A number in 0 .. size - 1 that depends on the name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % size
