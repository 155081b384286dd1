# SPDX-License-Identifier: Apache-2.0
"""Bytes that somebody sent become an RGB image, read as the run reads its images, or a reason why not."""

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
    open_image,
    orientation_of,
    rgb_of,
)
from .problem import Problem

__all__ = ["FORMATS", "KINDS", "ReceivedImage", "read_image"]

log = logging.getLogger("beitv2_core")
#: longest side over shortest: the short side is resized to the model's, so a thread-like image would become enormous
MAX_ASPECT = 20


class ReceivedImage(NamedTuple):
    """An RGB image, its format, and what one should know about how it was read."""

    image: Image.Image
    format: str
    notes: list[str]


def read_image(data: bytes, *, max_pixels: int, upright: bool = False) -> ReceivedImage:
    """Decode the first frame with the reader of training and evaluation (`data.image_file`).

    upright: whether the run turns images as their EXIF data say.  The format is told by the content.
    Raises Problem 415 for something that is no image, 413 for more than `max_pixels` (read from the header, before
    decoding), 422 for a damaged or thread-like image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the sender's file
        try:
            image = open_image(io.BytesIO(data))
        except ImageRefused:
            kind = foreign_kind(data[:160])
            what = f" ({kind})" if kind else ""
            raise Problem(415, "the image", f"{len(data):,} bytes that are no image read here{what} came.",
                          f"Expected {KINDS}; the content decides, not the name.",
                          "Convert it to JPEG or PNG." if what else "Send an image file.") from None
        except Exception as error:  # a header that looks right and is not: Pillow raises anything
            raise _damaged(error) from error
        with image:
            _check_size(image, max_pixels)
            try:
                frames = getattr(image, "n_frames", 1)
                rgb = rgb_of(image, upright)
                notes = _notes(image, upright)
                kind = image.format or "unknown"
            except Exception as error:
                raise _damaged(error) from error
    if frames > 1 and kind != "MPO":  # the further frames of an MPO are previews of the same photograph
        notes.insert(0, f"the first of {frames} frames")
    return ReceivedImage(rgb, "JPEG" if kind == "MPO" else kind, notes)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise Problem(413, "the image", f"It has {width} x {height} = {width * height:,} pixels.",
                      f"Expected at most {max_pixels:,}.", "Make it smaller.")
    check_pixels(image, max_pixels)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Problem(422, "the image", f"It has {width} x {height} pixels.",
                      f"Expected a longer side of at most {MAX_ASPECT} times the shorter.", "Cut a part out of it.")


def _damaged(error: Exception) -> Problem:
    log.info("an image could not be decoded: %s: %s", type(error).__name__, error)
    return Problem(422, "the image", "It begins like an image but cannot be decoded.",
                   f"Expected a whole {KINDS} file.", "Open and save it again with an image program.")


def _notes(image: Image.Image, upright: bool) -> list[str]:
    """What one should know about how a decoded image became RGB."""
    notes = []
    if orientation_of(image) in TURNS:
        notes.append("turned upright as its EXIF data say" if upright else
                     "its EXIF data ask for a turn, which this run does not apply")
    if image.mode.startswith(("I", "F")):
        notes.append("brightness scaled to 8 bit")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
            notes.append("transparency was dropped, as in training")
    if image.mode == "CMYK":
        notes.append("printing colours (CMYK) changed to RGB")
    return notes
