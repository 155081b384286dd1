"""Bytes that somebody sent become an upright RGB picture, or a reason why not."""

from __future__ import annotations

import io
import logging
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .problem import Problem

log = logging.getLogger("beitv2_core")
#: Pillow's decoders that are tried; the others (PostScript, ...) may start programs or are of no use here
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: longest side over shortest: the short side is resized to the model's, so a thread-like picture would become enormous
MAX_ASPECT = 20
KINDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
ORIENTATION = 0x0112


class Picture(NamedTuple):
    """An upright RGB picture, its format, and what had to be done to get it."""

    image: Image.Image
    format: str
    notes: list[str]


def read_picture(data: bytes, *, max_pixels: int) -> Picture:
    """Decode the first frame as the eye sees it: turned by EXIF, over white, 8 bit RGB.

    The format is told by the content.  Raises Problem 415 for something that is no picture, 413 for more than
    `max_pixels` (read from the header, before decoding), 422 for a damaged or thread-like picture.
    Departs: `data.folder.decode`, which training uses, ignores EXIF and transparency and clips 16 bit, as the official
    loader does; 8 bit RGB pictures without an EXIF turn are decoded equally.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the sender's file; and the limit of pixels is here `max_pixels`
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise Problem(415, "the picture", f"{len(data):,} bytes that are no picture came.",
                          f"Expected {KINDS}; the content decides, not the name.", "Send a picture file.") from None
        except Image.DecompressionBombError as error:
            raise Problem(413, "the picture", f"{error}.", f"Expected at most {max_pixels:,} pixels.",
                          "Make it smaller.") from None
        except Exception as error:  # a header that looks right and is not: Pillow raises anything
            raise _damaged(error) from error
        with image:
            _check_size(image.width, image.height, max_pixels)
            notes: list[str] = []
            try:
                frames = getattr(image, "n_frames", 1)
                image.load()
                kind = image.format or "unknown"
                upright = _turn(image, notes)
                rgb = _as_rgb(upright, notes)
            except Exception as error:
                raise _damaged(error) from error
    if frames > 1 and kind != "MPO":  # the further frames of an MPO are previews of the same photograph
        notes.insert(0, f"the first of {frames} frames")
    return Picture(rgb, "JPEG" if kind == "MPO" else kind, notes)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Problem(413, "the picture", f"It has {width} x {height} = {width * height:,} pixels.",
                      f"Expected at most {max_pixels:,}.", "Make it smaller.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Problem(422, "the picture", f"It has {width} x {height} pixels.",
                      f"Expected a longer side of at most {MAX_ASPECT} times the shorter.", "Cut a part out of it.")


def _damaged(error: Exception) -> Problem:
    log.info("a picture could not be decoded: %s: %s", type(error).__name__, error)
    return Problem(422, "the picture", "It begins like a picture but cannot be decoded.",
                   f"Expected a whole {KINDS} file.", "Open and save it again with a picture program.")


def _turn(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # EXIF is written by anybody; the pixels are good without it
        log.info("a picture's EXIF could not be read: %s: %s", type(error).__name__, error)
        notes.append("its EXIF data are damaged and were not used")
        return image
    if orientation in range(2, 9):
        notes.append("turned upright as its EXIF data say")
    return upright


def _as_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        notes.append("brightness scaled to 8 bit")
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        if np.asarray(layer.getchannel("A")).min() < 255:
            notes.append("transparent parts shown on white")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode == "CMYK":
        notes.append("printing colours (CMYK) changed to RGB")
    return image.convert("RGB")


def _to_8_bit(levels: np.ndarray) -> np.ndarray:
    """uint8 (H, W) of grey levels of any type: 0..1, 0..255 and 0..65535 keep their black and white, others are
    stretched between their least and largest."""
    levels = np.nan_to_num(levels.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(levels.min()), float(levels.max())
    if low >= 0 and high <= 65535:
        shares = high <= 1 and bool((levels != np.rint(levels)).any())
        low, high = 0.0, 1.0 if shares else 255.0 if high <= 255 else 65535.0
    return np.rint((levels - low) * np.float32(255 / max(high - low, 1e-12))).astype(np.uint8)
