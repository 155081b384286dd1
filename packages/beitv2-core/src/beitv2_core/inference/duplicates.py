# SPDX-License-Identifier: Apache-2.0
"""Near-duplicates: the same picture compressed again, resized, mirrored or cropped a little.

Neighbours of the thumbnails are candidates, either way round; those that stay alike when laid over each other are
read once more, larger, and looked through for a part that differs: neighbouring frames of a video have one.
Memory grows with the number of images, not with its square; features of a model are not needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Optional

import numpy as np

from ..data import BatchReader, ImageFiles, Reading, ordered_reader
from ..errors import DataError
from .alignment import Crops, Match, align, compare, smooth, through
from .embedding_file import Embeddings
from .thumbnails import SIDE, ThumbnailTransform

#: what pairs must reach (`Pair.similarity`), and must not exceed (`Pair.change`), unless told otherwise
LEAST, MOST = 0.98, 0.45
#: neighbours of an image that are compared with it, each way round, and their least cosine
NEIGHBOURS, NEAR = 8, 0.5
#: least correlation of the windows that are tried before a pair is aligned
WORTH_IT = 0.8
#: rows and columns that a picture is read with at last; parts of a side that are compared one by one
LARGE, PARTS = 256, 8
_ROWS, _COLUMNS, _PAIRS = 1024, 16384, 256


class Pair(NamedTuple):
    """Two images that show the same.

    first, second: their numbers, those of the later files behind those of the earlier ones.  mirrored: one is the
    other's mirror image.  similarity: correlation of the pictures where they lie over each other, 1 for equal ones.
    change: largest difference of an eighth by eighth of the picture, as a share of its contrast.  cosine: of their
    features, None where those cannot be compared.  group: images that are connected by pairs have one number.
    """

    first: int
    second: int
    mirrored: bool
    similarity: float
    change: float
    cosine: Optional[float]
    group: int = 0


def find_duplicates(files: Sequence[Embeddings], *, least: float = LEAST, most: float = MOST, between: bool = False,
                    neighbours: int = NEIGHBOURS, num_workers: int = 0,
                    progress: Callable[[str], None] = lambda line: None) -> list[Pair]:
    """The pairs of near-duplicates, most similar first.

    between: only pairs of images of different files.  least: similarity, most: change that is allowed.  neighbours:
    candidates of an image, each way round.  num_workers: processes that read images.  progress: called with a line.
    Pictures without contrast are never pairs.  Raises DataError for an image that cannot be read any more.
    """
    with _Pictures(files, num_workers) as reader:
        thumbnails = reader.thumbnails()
        owner = np.repeat(np.arange(len(files)), [len(file.paths) for file in files])
        pairs = _candidates(thumbnails, owner if between else None, neighbours)
        progress(f"{len(thumbnails)} images, {len(pairs)} candidate pairs")
        pairs, found = _alike(thumbnails, pairs, least)
        progress(f"{len(pairs)} pairs are alike; their files are read")
        changes = _changes(reader, pairs, found.window)
    kept = np.flatnonzero(changes <= most)
    best: dict[tuple[int, int], Pair] = {}
    for at in kept[np.argsort(-_similarity(found)[kept], kind="stable")].tolist():
        first, second, mirrored = pairs[at].tolist()
        pair = Pair(first, second, bool(mirrored), float(_similarity(found)[at]), float(changes[at]),
                    _cosine(files, first, second))
        best.setdefault((first, second), pair)  # a symmetric picture is found both ways round
    return _grouped(list(best.values()))


def coarse(thumbnails: np.ndarray) -> np.ndarray:
    """Unit vectors float32 (N, 64) of mean 0: eight by eight parts of thumbnails; zeros without contrast."""
    count, side, _ = thumbnails.shape
    found = np.empty((count, 64), np.float32)
    for start in range(0, count, _COLUMNS):
        part = thumbnails[start : start + _COLUMNS].astype(np.float32)
        found[start : start + len(part)] = part.reshape(-1, 8, side // 8, 8, side // 8).mean((2, 4)).reshape(-1, 64)
    found -= found.mean(1, keepdims=True)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.where(lengths > 8, found / np.maximum(lengths, 1), 0).astype(np.float32)  # 8: one grey level each


def _candidates(thumbnails: np.ndarray, owner: Optional[np.ndarray], neighbours: int) -> np.ndarray:
    """int64 (P, 3): numbers of two images, the smaller first, and 1 where the first is to be mirrored."""
    vectors = coarse(thumbnails)
    ways = (vectors, vectors.reshape(-1, 8, 8)[:, :, ::-1].reshape(-1, 64))
    pairs: set[tuple[int, int, int]] = set()
    for start in range(0, len(vectors), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(vectors)))
        for mirrored, others in enumerate(ways):
            for row, column in _nearest(vectors, others, rows, owner, neighbours):
                pairs.add((min(row, column), max(row, column), mirrored))
    return np.asarray(sorted(pairs), dtype=np.int64).reshape(-1, 3)


def _nearest(vectors: np.ndarray, others: np.ndarray, rows: np.ndarray, owner: Optional[np.ndarray],
             neighbours: int) -> Iterator[tuple[int, int]]:
    """(row, column) of the nearest others of these rows, computed in blocks of columns."""
    values = np.full((len(rows), 0), 0, np.float32)
    numbers = np.full((len(rows), 0), 0, np.int64)
    for start in range(0, len(others), _COLUMNS):
        block = vectors[rows] @ others[start : start + _COLUMNS].T
        columns = np.arange(start, start + block.shape[1])
        block[rows[:, None] == columns] = -1
        if owner is not None:
            block[owner[rows][:, None] == owner[columns]] = -1
        values = np.concatenate([values, block], axis=1)
        numbers = np.concatenate([numbers, np.broadcast_to(columns, block.shape)], axis=1)
        if values.shape[1] > neighbours:
            top = np.argpartition(-values, neighbours - 1, axis=1)[:, :neighbours]
            values, numbers = np.take_along_axis(values, top, 1), np.take_along_axis(numbers, top, 1)
    for row, column in zip(*np.nonzero(values > NEAR)):
        yield int(rows[row]), int(numbers[row, column])


def _alike(thumbnails: np.ndarray, pairs: np.ndarray, least: float) -> tuple[np.ndarray, Match]:
    """The pairs whose thumbnails are alike when one is laid over the other, and how."""
    crops = Crops(thumbnails.shape[1])
    kept, matches = [pairs[:0]], [Match(*(np.zeros(shape, np.float32) for shape in (0, 0, (0, 4))))]
    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        first, second = _turned(thumbnails[part[:, 0]], part[:, 2]), thumbnails[part[:, 1]]
        found, window = crops.start(crops.vectors(first), crops.vectors(second))
        worth = np.flatnonzero(found > WORTH_IT)
        if not len(worth):
            continue
        match = compare(first[worth], second[worth], window[worth])
        good = _similarity(match) >= least
        kept.append(part[worth][good])
        matches.append(Match(*(values[good] for values in match)))
    return np.concatenate(kept), Match(*(np.concatenate(values) for values in zip(*matches)))


def _similarity(match: Match) -> np.ndarray:
    """The correlation, unless what is fine differs: pictures of the same layout agree in what is coarse only."""
    return np.minimum(match.correlation, 0.9 + 0.1 * match.detail)


def _turned(pictures: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    return np.where(mirrored[:, None, None] == 1, pictures[:, :, ::-1], pictures)


def _changes(reader: _Pictures, pairs: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The largest local difference of every pair, from the images themselves."""
    changes = np.zeros(len(pairs))
    for start in range(0, len(pairs), _PAIRS):
        part, window = pairs[start : start + _PAIRS], windows[start : start + _PAIRS]
        numbers = np.unique(part[:, :2])
        pictures, sides = reader.read(numbers)
        first, second = (np.searchsorted(numbers, part[:, column]) for column in (0, 1))
        common = np.minimum(sides[first], sides[second])
        for side in np.unique(common).tolist():
            at = np.flatnonzero(common == side)
            for some in np.array_split(at, -(-len(at) // 32)):
                one, other = (_shrunk(pictures[places[some]], side) for places in (first, second))
                scale = np.asarray([1, side / SIDE, 1, side / SIDE], np.float32)
                changes[start + some] = largest_change(_turned(one, part[some, 2]), other, window[some] * scale)
    return changes


def largest_change(first_PYX: np.ndarray, second_PYX: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The largest root mean square difference (P,) of a part of aligned pictures, as a share of their contrast.

    window: to begin from.  Brightness and contrast of the whole are fitted; parts that only one picture has are left
    out.
    """
    window = align(first_PYX, second_PYX, window, steps=3)
    seen, mask = through(first_PYX, window)
    seen, other = smooth(seen), smooth(second_PYX)
    pixels = np.maximum(mask.sum((1, 2)), 1)

    def centred(x_PYX: np.ndarray) -> np.ndarray:
        return np.asarray((x_PYX - ((x_PYX * mask).sum((1, 2)) / pixels)[:, None, None]) * mask)

    a_PYX, b_PYX = centred(seen), centred(other)
    gain = (a_PYX * b_PYX).sum((1, 2)) / np.maximum((a_PYX**2).sum((1, 2)), 1e-3)
    contrast = np.sqrt((b_PYX**2).sum((1, 2)) / pixels)
    square = (gain[:, None, None] * a_PYX - b_PYX) ** 2
    count, side, _ = square.shape
    parts = (count, PARTS, side // PARTS, PARTS, side // PARTS)
    local, covered = (x.reshape(parts).mean((2, 4)) for x in (square, mask))
    largest = np.sqrt(np.where(covered > 0.99, local, 0).max((1, 2)))
    return np.asarray(largest / np.maximum(contrast, 1e-3))


def _shrunk(pictures: np.ndarray, side: int) -> np.ndarray:
    count, whole, _ = pictures.shape
    by = whole // side
    return np.asarray(pictures.reshape(count, side, by, side, by).mean((2, 4)), dtype=np.float32)


class _Pictures:
    """Grey pictures of the images of several files; a context that ends the processes that read them."""

    def __init__(self, files: Sequence[Embeddings], num_workers: int) -> None:
        self.files, self.num_workers = files, num_workers
        self.places = [file.place(number) for file in files for number in range(len(file.paths))]
        self.upright = np.concatenate([np.full(len(file.paths), bool(file.meta.get("upright"))) for file in files])
        self._open = contextlib.ExitStack()
        self._readers: dict[tuple[bool, int], BatchReader] = {}

    def __enter__(self) -> _Pictures:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def thumbnails(self) -> np.ndarray:
        """uint8 (N, side, side) of all images, from the files, or read where a file has none."""
        found, start = [], 0
        for file in self.files:
            numbers = np.arange(start, start := start + len(file.paths))
            found.append(self._read(numbers, SIDE)[0] if file.thumbnails is None else file.thumbnails)
            if found[-1].shape[1:] != (SIDE, SIDE):
                raise DataError(f"{file.source}: thumbnails of {found[-1].shape[1]} pixels, this version has {SIDE}. "
                                "Write the file again with `beitv2 embed`.")
        return np.concatenate(found)

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures uint8 (P, LARGE, LARGE), and the rows that each really has: 32, 64, 128 or 256."""
        pictures, sizes = self._read(numbers, LARGE)
        return pictures, np.clip(2 ** np.floor(np.log2(sizes.min(1))), SIDE, LARGE).astype(np.int64)

    def _read(self, numbers: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        pictures, sizes = np.empty((len(numbers), side, side), np.uint8), np.empty((len(numbers), 2), np.int64)
        for upright in (False, True):
            at = np.flatnonzero(self.upright[numbers] == upright)
            start = 0
            for batch in self._reader(upright, side).in_order(numbers[at].tolist(), 16) if len(at) else ():
                some = at[start : (start := start + len(batch["size"]))]
                pictures[some], sizes[some] = batch["thumbnail"], batch["size"]
        return pictures, sizes

    def _reader(self, upright: bool, side: int) -> BatchReader:
        if (upright, side) not in self._readers:
            files = ImageFiles(self.places, Reading(upright=upright))
            self._readers[upright, side] = self._open.enter_context(ordered_reader(
                files, ThumbnailTransform(side), batches=-(-len(files) // 16), num_workers=self.num_workers))
        return self._readers[upright, side]


def _cosine(files: Sequence[Embeddings], first: int, second: int) -> Optional[float]:
    found = []
    for number in (first, second):
        for file in files:
            if number < len(file.paths):
                found.append((file.features[number], file.same_space_as(files[0])))
                break
            number -= len(file.paths)
    (a, known), (b, also) = found
    if not (known and also) or a.ndim != 1:
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _grouped(pairs: list[Pair]) -> list[Pair]:
    root: dict[int, int] = {}

    def find(number: int) -> int:
        while root.setdefault(number, number) != number:
            number = root[number]
        return number

    for pair in pairs:
        root[find(pair.second)] = find(pair.first)
    numbers: dict[int, int] = {}
    return [pair._replace(group=numbers.setdefault(find(pair.first), len(numbers) + 1)) for pair in pairs]
