# SPDX-License-Identifier: Apache-2.0
"""Images that are there twice: equal files, equal pixels, and those that look the same: compressed again, resized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..choosing.survey import PLAIN_LEVELS
from ..inference.alignment import smooth
from .gather import Found
from .look import grey_of
from .parts import Part

#: how two images are the same, the strictest first
SAME_FILE, SAME_PIXELS, ALIKE = "same file", "same pixels", "looks the same"
#: bits in which fingerprints of one picture may differ; cut into BITS + 1 pieces, two such have a piece in common
BITS, WORD = 3, 16
#: images of one piece that each one is compared with
MOST_NEAR = 4096
#: parts of a side of the greys that are compared at last; largest difference of a part as a share of the contrast
PIECES, CHANGE = 8, 0.08
_PAIRS = 256


class Twin(NamedTuple):
    """Two images that are the same: their numbers over all splits, the smaller first, and how."""

    first: int
    second: int
    how: str


def find_twins(parts: Sequence[Part], found: Sequence[Found], compared: Sequence[int]) -> list[Twin]:
    """The images of all splits that are there more than once: each with the first one that it equals.

    Images of one colour are equal only as files.  Pictures that look the same are candidates by their fingerprints, and
    are read once more and compared; for mirrored and cropped ones there is `beitv2 duplicates`.
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

    def greys(numbers: np.ndarray) -> np.ndarray:
        owners = np.searchsorted(starts, numbers, side="right") - 1
        return np.stack([grey_of(parts[owner].looks.picture(int(number - starts[owner])))
                         for owner, number in zip(owners.tolist(), numbers.tolist())])

    return [*twins, *again, *(Twin(int(first), int(second), ALIKE) for first, second in _alike(near, greys))]


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
    yield from zip(firsts[~new].tolist(), ordered[~new].tolist())


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


def _alike(pairs: np.ndarray, greys: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple[int, int]]:
    """The pairs that show the same where they lie over each other."""
    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        numbers = np.unique(part)
        first, second = (np.searchsorted(numbers, part[:, column]) for column in (0, 1))
        pictures = greys(numbers).astype(np.float32)
        good = largest_difference(pictures[first], pictures[second]) <= CHANGE
        yield from map(tuple, part[good].tolist())


def largest_difference(first_PYX: np.ndarray, second_PYX: np.ndarray) -> np.ndarray:
    """The largest root mean square difference (P,) of a part of grey pictures, as a share of their contrast.

    Brightness and contrast of the whole are fitted; what is finer than a pixel of them does not count.
    """
    a_PYX, b_PYX = smooth(first_PYX), smooth(second_PYX)
    a_PYX, b_PYX = (x - x.mean((1, 2), keepdims=True) for x in (a_PYX, b_PYX))
    gain = (a_PYX * b_PYX).sum((1, 2), keepdims=True) / np.maximum((a_PYX**2).sum((1, 2), keepdims=True), 1e-3)
    count, side, _ = a_PYX.shape
    parts = ((gain * a_PYX - b_PYX) ** 2).reshape(count, PIECES, side // PIECES, PIECES, side // PIECES).mean((2, 4))
    return np.asarray(np.sqrt(parts.max((1, 2))) / np.maximum(b_PYX.std((1, 2)), 1e-3))
