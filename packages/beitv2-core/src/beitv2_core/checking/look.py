# SPDX-License-Identifier: Apache-2.0
"""A look at one image file: header, pixels, and what tells it from others."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from typing import Any, NamedTuple, Optional

import numpy as np
from PIL import Image
from scipy.fft import dctn

from ..data import Reading
from ..data.sources.image_file import SIDEWAYS, check_pixels, open_image, orientation_of, reason_of, rgb_of

#: bytes of a digest: two files of one digest are equal
DIGEST = 16
#: side of the grey picture behind a fingerprint, and of its low frequencies that make it
GREY, LOW = 32, 8


class Look(NamedTuple):
    """One image file as it was met; of a sample with a label for every pixel, also what its labels are.

    width, height: pixels as read (turned where `Reading.upright`); 0 where it cannot be read.  mode, kind: Pillow's
    names of pixel format and file format.  turn: EXIF orientation, 1: upright.  alpha: whether it has transparency.
    spread: largest difference of levels within a channel, -1 where pixels were not looked at.  content: digest of the
    bytes, pixels: of the decoded RGB; b"" where not read.  print: `fingerprint`.  broken: why it cannot be read.
    counts: int64 (classes + 1,) labelled pixels of each class and, last, of none.  faults: (kind, sentence) of what is
    wrong with the labels.
    """

    width: int = 0
    height: int = 0
    mode: str = ""
    kind: str = ""
    turn: int = 1
    alpha: bool = False
    spread: int = -1
    content: bytes = b""
    pixels: bytes = b""
    print: int = 0
    broken: str = ""
    counts: Optional[np.ndarray] = None
    faults: tuple[tuple[str, str], ...] = ()


def look_at(dataset: Any, index: int, reading: Reading, quick: bool) -> Look:
    """Open image `index` of a data set with `open(index)` and `path(index)`; quick: read its header only.

    A file that cannot be read is no error here: `Look.broken` says why.
    """
    try:
        _refuse_no_file(dataset.path(index))
        with dataset.open(index) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks about what the file holds besides its pixels
            content = b"" if quick else hashlib.blake2b(file.read(), digest_size=DIGEST).digest()
            file.seek(0)
            with open_image(file) as image:
                check_pixels(image, reading.max_pixels)
                found = _header(image, reading)
                return found if quick else _with_pixels(found, image, reading, content)
    except Exception as error:  # broken input: OSError, SyntaxError, struct.error, ...
        return Look(broken=reason_of(error))


def grey_of(image: Image.Image) -> np.ndarray:
    """uint8 (32, 32): the greys of a whole RGB image, whatever its shape.

    Bicubic, which Pillow widens where it makes smaller: with mean greys of whole pixels a picture of two sizes differs.
    """
    return np.asarray(image.convert("L").resize((GREY, GREY), Image.Resampling.BICUBIC))


def fingerprint(grey: np.ndarray) -> int:
    """63 bits that stay nearly the same when a picture is compressed again or resized.

    grey: (32, 32).  The signs of its low DCT frequencies against their median, without the mean (pHash: Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2).
    """
    low = dctn(grey.astype(np.float64), norm="ortho")[:LOW, :LOW].reshape(-1)[1:]
    bits = np.packbits(np.concatenate([[False], low > np.median(low)]))
    return int.from_bytes(bits.tobytes(), "big")


class Looks:
    """The images of a data set as what `look_at` finds; what a worker process reads.

    dataset: with `open(index)` and `path(index)`.
    """

    classes = None

    def __init__(self, dataset: Any, reading: Reading, quick: bool) -> None:
        self.dataset, self.reading, self.quick = dataset, reading, quick

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int) -> Look:
        """Look at image `index`."""
        return look_at(self.dataset, index, self.reading, self.quick)

    def path(self, index: int) -> str:
        """What an image is called."""
        return str(self.dataset.path(index))

    def picture(self, index: int) -> Image.Image:
        """Image `index` as RGB; raises whatever broken input raises."""
        with self.dataset.open(index) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(file) as image:
                check_pixels(image, self.reading.max_pixels)
                return rgb_of(image, self.reading.upright)


def _refuse_no_file(path: str) -> None:
    """Raise OSError for a pipe or a device, which would be waited for without end."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # a member of a tar file; what is missing is named when it is opened
        return
    if not stat.S_ISREG(mode):
        raise OSError("a pipe, a device or a folder, not a file")


def _header(image: Image.Image, reading: Reading) -> Look:
    turn = orientation_of(image)
    width, height = image.size[::-1] if reading.upright and turn in SIDEWAYS else image.size
    return Look(width, height, image.mode, str(image.format), turn, "A" in image.mode or "transparency" in image.info)


def _with_pixels(found: Look, image: Image.Image, reading: Reading, content: bytes) -> Look:
    rgb = rgb_of(image, reading.upright)
    low, high = np.asarray(rgb.getextrema()).T  # of every channel
    digest = hashlib.blake2b(repr(rgb.size).encode() + rgb.tobytes(), digest_size=DIGEST).digest()
    return found._replace(width=rgb.width, height=rgb.height, spread=int((high - low).max()), content=content,
                          pixels=digest, print=fingerprint(grey_of(rgb)))
