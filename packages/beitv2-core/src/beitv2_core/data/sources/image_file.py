# SPDX-License-Identifier: Apache-2.0
"""The one reader of image files: bytes become RGB uint8, the same for training, evaluation, prediction and the page.

A `Reading` says what a run decides about it: whether EXIF turns are applied, and how many pixels a file may have.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import stat
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import DataError
from ...pixels.size import MAX_PIXELS

logger = logging.getLogger("beitv2_core")

#: endings of the files that are looked for in folders
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
              ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".mpo")
#: endings of images that Pillow does not read by itself: told, not passed over
FOREIGN_EXTENSIONS = (".heic", ".heif", ".hif", ".svg", ".svgz", ".jxl", ".psd", ".tga", ".exr", ".hdr", ".raw", ".dng",
                      ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm", ".eps")
#: Pillow's decoders that are tried; the others (PostScript, ...) may start programs, or know a file by its name only
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "JPEG2000", "MPO")
KINDS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, PPM or JPEG 2000"
#: errors of a disk or a network file system that may pass, and the seconds to wait before another try
PASSING_ERRORS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.EREMOTEIO)
RETRY_PAUSES = (0.1, 1.0)
ORIENTATION = 0x0112
#: EXIF orientation -> what turns such an image upright
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
SIDEWAYS = (5, 6, 7, 8)
#: most pixels that the scans of a JPEG may give in all: two seconds of decoding
MAX_SCANNED = 2 * 10**9
_SCAN = b"\xff\xda"
#: what begins a part of a JPEG; not a byte of the pixels (ff 00), and not a restart within a scan (ff d0 to ff d7)
_MARK = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")

Shrink = Callable[["tuple[int, int]"], int]
#: beginnings of files that are taken for images and are none that Pillow reads: (offset, bytes, what it is)
_BEGINNINGS = (
    (4, b"ftyphei", "a HEIC photograph"), (4, b"ftyphev", "a HEIC photograph"), (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"), (4, b"ftypavif", "an AVIF image"), (4, b"ftypavis", "an AVIF image"),
    (4, b"ftypcrx", "a raw photograph"), (4, b"ftyp", "a video"), (4, b"JXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"), (0, b"<svg", "an SVG drawing"), (0, b"<?xml", "an XML file (SVG?)"),
    (0, b"%PDF", "a PDF document"), (0, b"%!PS", "a PostScript drawing"), (0, b"8BPS", "a Photoshop file"),
    (0, b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (0, b"<!doctype html", "an HTML page"), (0, b"<html", "an HTML page"), (0, b"\x93numpy", "a numpy array"),
    (0, b"pk\x03\x04", "a zip archive"), (0, b"\x1f\x8b", "a gzip archive"), (128, b"dicm", "a DICOM image"),
)


class Reading(NamedTuple):
    """How a run reads image files.

    upright: turn photographs as their EXIF data say (`data.exif_orientation`); max_pixels: most pixels of a file
    (`data.max_pixels`).
    """

    upright: bool = False
    max_pixels: int = MAX_PIXELS


OFFICIAL = Reading()


class Decoded(NamedTuple):
    """An RGB image, its (width, height) in the file as it is shown, and how much smaller than that it is (1: not)."""

    image: Image.Image
    full_size: tuple[int, int]
    reduction: int = 1


class ImageRefused(DataError):
    """An image that is whole but is not read: too many pixels, or a format nobody reads here; says what to do."""


class TooManyPixels(ImageRefused):
    """An image of more pixels than `data.max_pixels` allows."""


def decode(path: Union[str, Path], *, upright: bool = False, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file completely as RGB uint8, whatever its mode.

    8-bit images become RGB as Pillow converts them (the official choice; transparency is dropped), of animations the
    first frame is read; JPEG files of ADE20K, ImageNet and CamVid become the pixels that OpenCV 4.5.5 reads.  Greys of
    16 and 32 bits and floats are scaled to 8 bits, see `to_8_bit`.  upright: turn the image as its EXIF data say.
    Raises ImageRefused for more than `max_pixels` pixels and for formats that are not read, whatever Pillow raises for
    a broken file, and OSError for what is no file: a pipe would be waited for without end.  An input/output error of
    the disk or the network is tried again twice: it says nothing about the image.
    Source: official `dataset_folder.py: pil_loader`.
    Departs: the official loader clips 16-bit greys to white, opens any format, and does not try again.
    """
    return decode_path(path, reading=Reading(upright, max_pixels)).image


def decode_path(path: Union[str, Path], shrink: Shrink | None = None, reading: Reading = OFFICIAL) -> Decoded:
    """`decode` with the sizes; shrink: as in `decode_file`."""
    for pause in RETRY_PAUSES:
        try:
            return _decode_once(path, shrink, reading)
        except OSError as error:
            if error.errno not in PASSING_ERRORS:
                raise
            logger.warning("%s: %s; tried again in %g s.", path, error, pause)
            time.sleep(pause)
    return _decode_once(path, shrink, reading)


def _decode_once(path: Union[str, Path], shrink: Shrink | None, reading: Reading) -> Decoded:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is a pipe, a device or a folder, not a file")
    with open(path, "rb") as file:
        return decode_file(file, shrink, reading)


def decode_file(file: BinaryIO, shrink: Shrink | None = None, reading: Reading = OFFICIAL) -> Decoded:
    """`decode` for an open file; shrink(full size) says how much smaller a JPEG may be decoded: 1, 2, 4 or 8.

    A JPEG decoder skips the detail it does not need (Pillow's draft mode); other formats are decoded whole.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about what the file holds besides its pixels
        with open_image(file) as image:
            check_pixels(image, reading.max_pixels)
            jpeg = image.format in ("JPEG", "MPO")
            width, height = image.size
            shown = (height, width) if jpeg and reading.upright and orientation_of(image) in SIDEWAYS else image.size
            reduction = shrink(shown) if shrink is not None and jpeg else 1
            if reduction > 1:
                image.draft(None, (width // reduction, height // reduction))
                if image.size != (-(-width // reduction), -(-height // reduction)):
                    raise OSError(f"{width} x {height} pixels became {image.size} when decoded {reduction} times "
                                  "smaller")
            rgb = rgb_of(image, reading.upright)
            return Decoded(rgb, shown if jpeg else rgb.size, reduction)


def decode_bytes(data: bytes, shrink: Shrink | None = None, reading: Reading = OFFICIAL) -> Decoded:
    """`decode` for the bytes of a file, with the sizes; shrink: as in `decode_file`."""
    return decode_file(io.BytesIO(data), shrink, reading)


def open_image(file: BinaryIO) -> Image.Image:
    """An image whose header is read and whose pixels are not; ImageRefused for what is no image that is read here."""
    head = file.read(160)
    file.seek(0)
    what = foreign_kind(head)
    if what.startswith("a HEI"):
        heif_plug_in()
    try:
        with _without_limit_of_pillow():  # `check_pixels` names the setting and the size
            image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        if what.startswith(("a HEI", "an AVIF")) and _reads(what):
            raise OSError(f"{what} that is damaged") from None
        raise ImageRefused(_unknown(head, what)) from None
    return image


def check_pixels(image: Image.Image, max_pixels: int) -> None:
    """Raise TooManyPixels for an opened image of more than `max_pixels`, ImageRefused for a JPEG of too many scans."""
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise TooManyPixels(
            f"{image.width} x {image.height} = {pixels:,} pixels, data.max_pixels allows {max_pixels:,}. Set "
            f"data.max_pixels={pixels} (option --max-pixels of commands that have it), or make the image smaller"
        )
    if image.format in ("JPEG", "MPO"):
        _check_scans(image, pixels)
    if Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < pixels:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow asks again when a part of the image is cut out


def _check_scans(image: Image.Image, pixels: int) -> None:
    """Refuse a JPEG that says its pixels so often that decoding it takes minutes: a scan may take ten bytes."""
    file: Any = image.fp  # type: ignore[attr-defined,unused-ignore]  # of image files
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    most = MAX_SCANNED // max(pixels, 1)
    # Whatever follows the image (a video) may hold this mark, too: it is looked at closely where there are many.
    if content.count(_SCAN) > most and _scans(content, most) > most:
        raise ImageRefused(f"a JPEG of {image.width} x {image.height} pixels in more than {most} scans; usual are at "
                           "most 20. Decode it with another program and save it again")


def _scans(content: bytes, most: int) -> int:
    """The scans of a JPEG up to its end, counted to `most` + 1."""
    found, at = 0, 2
    while found <= most:
        mark = _MARK.search(content, at)
        if mark is None or mark[0] == b"\xff\xd9":
            break
        found += mark[0] == _SCAN
        at = mark.end() + int.from_bytes(content[mark.end() : mark.end() + 2], "big")
    return found


def frames_of(image: Image.Image, most: int = 100) -> int:
    """The frames of an opened image, counted to `most` in a TIFF, whose reader takes very long for very many."""
    if image.format != "TIFF" or not getattr(image, "is_animated", False):
        return int(getattr(image, "n_frames", 1))
    count = 1
    try:
        while count < most:
            image.seek(count)
            count += 1
    except EOFError:
        pass
    image.seek(0)
    return count


def rgb_of(image: Image.Image, upright: bool) -> Image.Image:
    """The pixels of an opened image, RGB uint8; upright: turned as its EXIF data say."""
    image.load()
    rgb = to_rgb(image)
    return turned(rgb, orientation_of(image)) if upright else rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB uint8 of a decoded image of any mode; ValueError, from Pillow, where there is no such conversion."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bit(np.asarray(image))).convert("RGB")
    return image.convert("RGB")


def to_8_bit(levels: np.ndarray) -> np.ndarray:
    """uint8 (H, W) of grey levels of any type.

    Images of one folder stay comparable: 0..65535, 0..255 (8-bit values stored in 16 bits) and shares 0..1 keep their
    black and white, by the largest level that comes; other ranges are stretched between their least and largest.
    Departs: the official loader clips 16-bit greys at 255, which makes nearly all of them white.
    """
    levels = np.nan_to_num(levels.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(levels.min()), float(levels.max())
    if low >= 0 and high <= 65535:
        shares = high <= 1 and bool((levels != np.rint(levels)).any())
        low, high = 0.0, 1.0 if shares else 255.0 if high <= 255 else 65535.0
    return np.rint((levels - low) * np.float32(255 / max(high - low, 1e-12))).astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or the EXIF data are damaged.

    Pillow turns a TIFF by itself when it is loaded; ask after that.
    """
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # EXIF is written by anybody; the pixels are good without it
        logger.debug("EXIF data that cannot be read: %s: %s", type(error).__name__, error)
        return 1
    return found if found in TURNS else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a viewer shows one of that EXIF orientation; itself for 1."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def foreign_kind(head: bytes) -> str:
    """What a file is by its first 160 bytes, for kinds that Pillow does not read everywhere; "" for all others."""
    small = head.lower().lstrip(b"\xef\xbb\xbf \t\r\n") if not head.startswith(b"\xff") else head
    for offset, begin, what in _BEGINNINGS:
        if (head if offset else small)[offset:].lower().startswith(begin.lower()):
            return what
    return "" if head else "an empty file"


def _reads(what: str) -> bool:
    return heif_plug_in() if what.startswith("a HEI") else "AVIF" in _formats()


def _unknown(head: bytes, what: str) -> str:
    if what.startswith("a HEI"):
        return f"{what}, which Pillow does not read by itself. Convert it to JPEG or PNG, or pip install pillow-heif"
    if what == "an AVIF image":
        return f"{what}, which this Pillow does not read. Install Pillow 11.3 or newer, or convert it to JPEG or PNG"
    if what:
        return f"{what}; expected {KINDS}. Convert or fetch it, or leave it out"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ("a TIFF whose channels or bits Pillow does not read (read are 1, 3 or 4 channels of 8 bits, and grey "
                "of 16 and 32 bits and floats). Convert it to one of these, or leave it out")
    return f"its content begins {head[:8]!r}, which is none of {KINDS}. Convert it, or leave it out"


def explain(path: object, error: Exception) -> DataError:
    """The one sentence about a file that could not be read, with what to do."""
    if isinstance(error, ImageRefused):
        return DataError(f"{path}: cannot be read as an image: {error}.")
    return DataError(f"{path}: cannot be decoded as an image ({type(error).__name__}: {error}). Repair or remove the "
                     "file.")


def reason_of(error: Exception) -> str:
    """Why a file could not be read, in one line: for the list of such files."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")


def readable_extensions() -> tuple[str, ...]:
    """Endings of the files that are images here: `EXTENSIONS`, and HEIC's where pillow-heif is installed."""
    return (*EXTENSIONS, *((".heic", ".heif", ".hif") if heif_plug_in() else ()))


def tell_foreign(where: object, names: Iterable[str]) -> None:
    """Log one line about files whose ending says image and that are not read, where there are any."""
    found = sorted(names)
    if found:
        kinds = ", ".join(sorted({os.path.splitext(name)[1].lower() for name in found}))
        hint = "; pip install pillow-heif reads HEIC" if ".hei" in kinds else ""
        logger.warning("%s: %d file(s) of kinds that are not read (%s; the first: %s) are left out. Convert them to "
                       "JPEG or PNG%s.", where, len(found), kinds, found[0], hint)


@cache
def heif_plug_in() -> bool:
    """Whether pillow-heif is installed; then HEIC files are read."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
    except ImportError:
        return False
    register_heif_opener()
    return True


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in (*FORMATS, *(("HEIF",) if heif_plug_in() else ())) if name in Image.OPEN)


_OPENING = threading.Lock()


@contextmanager
def _without_limit_of_pillow() -> Iterator[None]:
    with _OPENING:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
