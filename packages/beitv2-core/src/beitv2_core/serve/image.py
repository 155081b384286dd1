# SPDX-License-Identifier: Apache-2.0
"""Decodes the body of a request into an RGB image, with the reader of training, or raises a Problem."""

from __future__ import annotations

import io
import logging
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.sources.image_file import (
    FORMATS,
    KINDS,
    TURNS,
    ImageRefused,
    check_pixels,
    foreign_kind,
    frames_of,
    open_image,
    orientation_of,
    rgb_of,
)
from .problem import Problem

__all__ = ["FORMATS", "KINDS", "ReceivedImage", "read_image"]

log = logging.getLogger("beitv2_core")
#: longest side / shortest side: the shortest is resized to the model's size, so a narrow image would become very large
MAX_ASPECT = 20
MOST_FRAMES = 100  # that are counted in a TIFF


class ReceivedImage(NamedTuple):
    """An RGB image, its format, and notes on how it was decoded."""

    image: Image.Image
    format: str
    notes: list[str]


def read_image(data: bytes, *, max_pixels: int, upright: bool = False) -> ReceivedImage:
    """Decode the first frame with the reader of training and evaluation (`data.sources.image_file`).

    upright: whether the run turns images as their EXIF data say.  The content decides the format.
    Raises Problem 415 for bytes that are no image, 413 for more than `max_pixels` (read from the header, before
    decoding), 422 for a damaged or very narrow image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about the sender's file
        try:
            image = open_image(io.BytesIO(data))
        except ImageRefused:
            kind = foreign_kind(data[:160])
            what = f" ({kind})" if kind else ""
            raise Problem(415, "the image", f"Received {len(data):,} bytes that are no readable image{what}.",
                          f"Expected {KINDS}; the content decides, not the name.",
                          "Convert it to JPEG or PNG." if what else "Send an image file.") from None
        except Exception as error:  # Pillow raises many types for a broken header
            raise _damaged(error) from error
        with image:
            try:
                _check_size(image, max_pixels)
                frames = frames_of(image, MOST_FRAMES)
                rgb = rgb_of(image, upright)
                notes = _notes(image, upright)
                kind = image.format or "unknown"
            except Problem:
                raise
            except Exception as error:
                raise _damaged(error) from error
    if frames > 1 and kind != "MPO":  # further frames of an MPO are previews of the same photograph
        notes.insert(0, f"the first of {frames} {'or more ' if frames == MOST_FRAMES else ''}frames")
    return ReceivedImage(rgb, "JPEG" if kind == "MPO" else kind, notes)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise Problem(413, "the image", f"It has {width} x {height} = {width * height:,} pixels.",
                      f"Expected at most {max_pixels:,}.", "Make it smaller.")
    check_pixels(image, max_pixels)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Problem(422, "the image", f"It has {width} x {height} pixels.",
                      f"Expected a longer side of at most {MAX_ASPECT} times the shorter.", "Crop it.")


def _damaged(error: Exception) -> Problem:
    log.info("an image could not be decoded: %s: %s", type(error).__name__, error)
    return Problem(422, "the image", "It has an image header but cannot be decoded.",
                   f"Expected a complete {KINDS} file.", "Open it in an image program and save it again.")


def _notes(image: Image.Image, upright: bool) -> list[str]:
    """Notes on the conversion of a decoded image to RGB."""
    notes = []
    if orientation_of(image) in TURNS:
        notes.append("turned upright as its EXIF data say" if upright else
                     "its EXIF orientation is ignored, as in training")
    if image.mode.startswith(("I", "F")):
        notes.append("brightness scaled to 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
            notes.append("transparency was dropped, as in training")
    if image.mode == "CMYK":
        notes.append("converted from CMYK to RGB")
    return notes
