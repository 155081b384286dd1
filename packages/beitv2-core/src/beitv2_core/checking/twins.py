# SPDX-License-Identifier: Apache-2.0
"""Images that are there twice: equal files, equal pixels, and the same picture compressed again or resized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..choosing.survey import PLAIN_LEVELS
from ..inference.alignment import compare
from ..inference.duplicates import LEAST, largest_change, similarity
from ..inference.thumbnails import SIDE, thumbnail_of
from .gather import Found
from .parts import Part

#: how two images are the same, the strictest first
SAME_FILE, SAME_PIXELS, AGAIN = "same file", "same pixels", "compressed again or resized"
#: bits in which fingerprints of one picture may differ; cut into BITS + 1 pieces, two such have a piece in common
BITS, WORD = 3, 16
#: images of one piece that each one is compared with
MOST_NEAR = 4096
#: side of the pictures that are compared at last, and their largest local difference as a share of the contrast
CLOSE, CHANGE = 64, 0.25
_PAIRS = 256


class Twin(NamedTuple):
    """Two images that are the same: their numbers over all splits, the smaller first, and how."""

    first: int
    second: int
    how: str


def find_twins(parts: Sequence[Part], found: Sequence[Found], compared: Sequence[int]) -> list[Twin]:
    """The images of all splits that are there more than once: each with the first one that it equals.

    Images of one colour are equal only as files.  Pictures that were compressed again are candidates by their
    fingerprints, read once more and judged as `beitv2 duplicates` judges a pair, but for mirroring.
    compared: numbers of the splits that are compared with each other.
    """
    starts = np.cumsum([0, *(part.images for part in parts)])
    read = np.concatenate([np.zeros(0, np.int64), *(starts[number] + found[number].read for number in compared)])
    content, pixels, prints, spread = (np.concatenate([getattr(one, name) for one in found])
                                       for name in ("content", "pixels", "print", "spread"))
    seen = read[spread[read] >= 0]  # quick: nothing is known of the rest
    twins = [Twin(first, second, SAME_FILE) for first, second in _equal(content, seen)]
    kept = np.setdiff1d(seen, [twin.second for twin in twins])
    kept = kept[spread[kept] > PLAIN_LEVELS]
    again = [Twin(first, second, SAME_PIXELS) for first, second in _equal(pixels, kept)]
    kept = np.setdiff1d(kept, [twin.second for twin in again])
    near = np.asarray(sorted(_near(prints, kept)), np.int64).reshape(-1, 2)
    sides = np.stack([np.concatenate([getattr(one, name) for one in found]) for name in ("width", "height")])
    shape = np.log(sides[0, near] / sides[1, near])
    near = near[np.abs(shape[:, 0] - shape[:, 1]) < 0.1]  # another aspect ratio is another picture

    def thumbnails(numbers: np.ndarray, side: int) -> np.ndarray:
        owners = np.searchsorted(starts, numbers, side="right") - 1
        return np.stack([thumbnail_of(parts[owner].looks.picture(int(number - starts[owner])), side)
                         for owner, number in zip(owners.tolist(), numbers.tolist())])

    return [*twins, *again, *(Twin(int(first), int(second), AGAIN) for first, second in _alike(near, thumbnails))]


def groups(twins: Sequence[Twin]) -> list[list[int]]:
    """The images that are connected by twins, each group in rising order."""
    root: dict[int, int] = {}

    def find(number: int) -> int:
        while root.setdefault(number, number) != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for twin in twins:
        one, other = sorted((find(twin.first), find(twin.second)))
        root[other] = one
    together: dict[int, list[int]] = {}
    for number in sorted(root):
        together.setdefault(find(number), []).append(number)
    return list(together.values())


def _equal(digests: np.ndarray, numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, other) of the images of equal digests."""
    words = np.ascontiguousarray(digests[numbers]).view(np.uint64)
    order = np.lexsort((numbers, words[:, 1], words[:, 0]))
    words, ordered = words[order], numbers[order]
    new = np.concatenate([[True], (words[1:] != words[:-1]).any(1)]) if len(words) else np.zeros(0, bool)
    firsts = ordered[new][np.cumsum(new) - 1]
    for first, other in zip(firsts[~new].tolist(), ordered[~new].tolist()):
        yield first, other


def _near(prints: np.ndarray, numbers: np.ndarray) -> set[tuple[int, int]]:
    """(smaller, larger) numbers of images whose fingerprints differ by at most `BITS` bits.

    One of BITS + 1 pieces of such fingerprints is equal: images are sorted by each piece and compared within it.
    """
    pairs: set[tuple[int, int]] = set()
    for piece in range(BITS + 1):
        keys = (prints[numbers] >> np.uint64(WORD * piece)) & np.uint64(2**WORD - 1)
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], numbers[order]
        left = np.arange(len(ordered))
        for step in range(1, min(MOST_NEAR, len(ordered))):
            left = left[left + step < len(ordered)]
            left = left[keys[left] == keys[left + step]]
            if not len(left):
                break
            bits = prints[ordered[left]] ^ prints[ordered[left + step]]
            close = np.unpackbits(bits.view(np.uint8).reshape(-1, 8), axis=1).sum(1) <= BITS
            for one, other in zip(ordered[left[close]].tolist(), ordered[left[close] + step].tolist()):
                pairs.add((min(one, other), max(one, other)))
    return pairs


def _alike(pairs: np.ndarray, thumbnails: Callable[[np.ndarray, int], np.ndarray]) -> Iterator[tuple[int, int]]:
    """The pairs that show the same where they lie over each other."""
    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        numbers = np.unique(part)
        places = [np.searchsorted(numbers, part[:, column]) for column in (0, 1)]
        whole = np.tile(np.asarray([1, 0, 1, 0], np.float32), (len(part), 1))
        small = thumbnails(numbers, SIDE)
        good = similarity(compare(small[places[0]], small[places[1]], whole)) >= LEAST
        large = thumbnails(numbers, CLOSE).astype(np.float32)
        good &= largest_change(large[places[0]], large[places[1]], whole) <= CHANGE
        yield from map(tuple, part[good].tolist())
