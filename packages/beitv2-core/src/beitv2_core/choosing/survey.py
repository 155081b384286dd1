# SPDX-License-Identifier: Apache-2.0
"""What a data set holds, by a look at a few hundred of its images, spread evenly."""

from __future__ import annotations

import warnings
from collections import Counter
from statistics import median
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..data.sources.image_file import SIDEWAYS, Reading, check_pixels, open_image, orientation_of, reason_of, rgb_of
from ..errors import DataError

#: images whose headers are read, and those of them whose pixels are looked at
HEADERS, PIXELS = 384, 48
#: an image is of one colour where no channel differs by more than this between its pixels (of 255)
PLAIN_LEVELS = 4
#: share of images of one colour, and of files that cannot be read, from which nothing can be learnt
MOSTLY = 0.95
BROKEN = 0.2


class Survey(NamedTuple):
    """images: of the data set; looked_at: files opened; sizes: (width, height) in pixels as shown, of those read.

    modes: Pillow's name of a pixel format -> files; formats: of a file format -> files.  broken: (path, reason).
    plain: images of one colour among the `pixels` whose pixels were looked at.
    """

    images: int
    looked_at: int
    sizes: tuple[tuple[int, int], ...]
    modes: dict[str, int]
    formats: dict[str, int]
    broken: tuple[tuple[str, str], ...]
    plain: int
    pixels: int

    @property
    def short_side(self) -> int:
        """Median of the shorter sides, pixels."""
        return int(median(min(size) for size in self.sizes))

    @property
    def broken_share(self) -> float:
        """Share of the opened files that cannot be read."""
        return len(self.broken) / self.looked_at

    def lines(self) -> list[str]:
        """What was found, in words."""
        least = min(self.sizes, key=lambda size: size[0] * size[1])
        most = max(self.sizes, key=lambda size: size[0] * size[1])
        size = "all" if least == most else f"{least[0]} x {least[1]} to"
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.modes.items(), key=lambda item: -item[1]))
        files = ", ".join(f"{name} {count}" for name, count in sorted(self.formats.items(), key=lambda item: -item[1]))
        found = [f"{self.images:,} images; {self.looked_at} of them looked at: {size} {most[0]} x {most[1]} pixels, "
                 f"half of them with a shorter side of at least {self.short_side}; {files}; {kinds}"]
        if self.broken:
            path, reason = self.broken[0]
            found.append(f"{len(self.broken)} of {self.looked_at} cannot be read, others take their place (the first: "
                         f"{path}: {reason})")
        if self.plain:
            found.append(f"{self.plain} of {self.pixels} are of one colour: nothing can be learnt from these")
        return found


def survey(dataset: Any, where: str, reading: Reading) -> Survey:
    """Look at the headers of up to 384 images of a data set, and at the pixels of up to 48 of these.

    dataset: with `open(index)` and `path(index)`.  where: what the user named, for errors.
    Raises DataError where too many files cannot be read, and for images of one colour each.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(HEADERS, len(dataset))).astype(np.int64))
    decoded = set(chosen[np.linspace(0, len(chosen) - 1, min(PIXELS, len(chosen))).astype(np.int64)].tolist())
    sizes, broken, spreads = [], [], []
    modes: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    for index in chosen.tolist():
        try:
            with dataset.open(index) as file:
                size, mode, kind, levels = _look(file, reading, index in decoded)
        except Exception as error:  # broken input: OSError, SyntaxError, struct.error, ...
            broken.append((dataset.path(index), reason_of(error)))
            continue
        sizes.append(size)
        modes[mode] += 1
        formats[kind] += 1
        if levels is not None:
            spreads.append(levels)
    found = Survey(len(dataset), len(chosen), tuple(sizes), dict(modes), dict(formats), tuple(broken),
                   sum(levels <= PLAIN_LEVELS for levels in spreads), len(spreads))
    refuse_unusable(found, where)
    return found


def refuse_unusable(found: Survey, where: str) -> None:
    """Raise DataError where nothing can be learnt from the images, with the sentence why."""
    if found.broken and (not found.sizes or found.broken_share > BROKEN):
        path, reason = found.broken[0]
        raise DataError(f"{where}: {len(found.broken)} of {found.looked_at} files that were opened cannot be read as "
                        f"images (the first: {path}: {reason}). Convert or remove them.")
    if found.pixels and found.plain >= MOSTLY * found.pixels:
        raise DataError(f"{where}: {found.plain} of {found.pixels} images that were looked at are of one colour each, "
                        "so there is nothing to learn from them: every patch would get the same code. Give photographs "
                        "or drawings that show something.")


def _look(file: BinaryIO, reading: Reading, decode: bool) -> tuple[tuple[int, int], str, str, int | None]:
    """(width, height) as shown, mode, format, and the largest difference of levels within a channel where decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_image(file) as image:
            check_pixels(image, reading.max_pixels)
            turned = reading.upright and orientation_of(image) in SIDEWAYS
            width, height = image.size
            size, mode, kind = (height, width) if turned else (width, height), image.mode, str(image.format)
            if not decode:
                return size, mode, kind, None
            if kind in ("JPEG", "MPO"):
                image.draft(None, (max(1, width // 8), max(1, height // 8)))
            pixels = np.asarray(rgb_of(image, False))
            return size, mode, kind, int(np.ptp(pixels, axis=(0, 1)).max())
