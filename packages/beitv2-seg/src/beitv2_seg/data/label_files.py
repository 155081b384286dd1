# SPDX-License-Identifier: Apache-2.0
"""Label map files of every form, as classes: one reader for training and evaluation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np
from PIL import Image

from beitv2_core.data.sources.image_file import MAX_PIXELS, check_pixels, frames_of, open_image, orientation_of, turned
from beitv2_core.errors import DataError

#: formats that change values: a label map in one of them holds classes nobody drew
LOSSY = ("JPEG", "MPO", "AVIF", "HEIF")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
#: bytes at the start of a file that say how WebP and JPEG 2000 hold their pixels
HEAD = 4096
#: colours that are no red, green and blue: their channels cannot be told apart as colours of classes
OTHER_COLOURS = ("CMYK", "YCbCr", "LAB", "HSV")
#: what Pillow multiplies the grey levels of few bits by; label maps mean the numbers themselves
SPREAD = {"L;2": 85, "L;4": 17, "L;2I": 85, "L;4I": 17}
MOST_SHOWN = 10
#: what becomes of labels that a map does not name: "keep", "refuse", or the number that they become
Unlisted = Union[str, int]


class LabelError(DataError):
    """A label map that is whole but does not say which class a pixel is."""


def read_label(path: str | Path, label_map: Mapping[str, int] | None = None, *, ignored: int = 255,
               unlisted: Unlisted = "keep", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The label map of a file as integers (H, W), uint8 where they and `ignored` fit: what the file says, mapped.

    Read are one channel of 1, 2, 4, 8, 16 or 32 bits, whole numbers in floats, the indices of a palette (its colours
    only where label_map has some), and colour files whose channels are equal.  label_map: label of the file -> label,
    for numbers ("11") and colours ("128,0,0"; a palette's too).  unlisted: what becomes of labels that are not in it:
    they stay ("keep"), are an error ("refuse"), or become that number.  An ignored label stays in any case.  Where
    label_map has colours, "keep" refuses others too.
    Raises LabelError naming the file, what was found, what is expected and what to do, and what Pillow raises for a
    broken file.
    """
    label_map = label_map or {}
    with open(path, "rb") as file, open_image(file) as image:
        check_pixels(image, max_pixels)
        lossy = _lossy_form(image, file)
        if lossy:
            raise LabelError(f"{path}: a label map in {lossy}, which changes values; expected PNG or another format "
                             "that keeps them. Export the labels anew: a conversion keeps the wrong values.")
        frames = frames_of(image, most=2)  # is there another one?
        if frames > 1 and image.format != "PNG":
            raise LabelError(f"{path}: a label map of several frames; expected one. Give every image its own.")
        raw = _raw_mode(image)
        image.load()
        image = turned(image, orientation_of(image))
        if any("," in key for key in label_map):
            label = _from_colours(image, raw, label_map, path, ignored=ignored, unlisted=unlisted)
        else:
            label = mapped_numbers(_one_channel(np.asarray(image), image.mode, raw, path), label_map, ignored=ignored,
                                   unlisted=unlisted, path=path)
    small = 0 <= ignored <= 255 and label.size and 0 <= int(label.min()) <= int(label.max()) <= 255
    return label.astype(np.uint8 if small else np.int32)


def _lossy_form(image: Image.Image, file: BinaryIO) -> str:
    """The form of an opened file in words where it changes values; "" where it keeps them."""
    if image.format in LOSSY:
        return str(image.format)
    compression = str(image.info.get("compression", ""))
    if image.format == "TIFF" and compression in LOSSY_TIFF:
        return f"TIFF with {compression} compression"
    if image.format in ("WEBP", "JPEG2000"):
        place = file.tell()
        file.seek(0)
        head = file.read(HEAD)
        file.seek(place)
        if image.format == "WEBP" and b"VP8 " in head and b"VP8L" not in head:
            return "lossy WebP"
        style = head.find(b"\xff\x52")  # COD, ISO 15444-1 A.6.1: the last byte is 0 for the wavelet with losses
        if image.format == "JPEG2000" and style >= 0 and head[style + 13:style + 14] == b"\0":
            return "lossy JPEG 2000"
    return ""


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels ("L;4", "RGB;16B"), where Pillow tells."""
    tiles = getattr(image, "tile", ())  # files that are decoded part by part have some
    tile: Any = tiles[0][3] if tiles else ""
    found = tile[0] if isinstance(tile, tuple) and tile else tile
    return found if isinstance(found, str) else ""


def _one_channel(label: np.ndarray, mode: str, raw: str, path: str | Path) -> np.ndarray:
    """Integers (H, W) of what Pillow gives for one file."""
    if label.ndim == 3 and ";16" in raw:
        raise LabelError(f"{path}: a label map of {label.shape[2]} channels of 16 bits; expected one channel (grey or "
                        "palette). Write the numbers of the classes into one channel.")
    if label.ndim == 3:
        label = _equal_channels(label, mode, path)
    if label.dtype.kind == "f":
        whole = np.rint(label)
        if not np.array_equal(label, whole):
            odd = np.unique(label[label != whole])[:MOST_SHOWN]
            raise LabelError(f"{path}: a label map of floats, some of them broken ({_listed(odd)}); expected the "
                            "numbers of classes. Export it as PNG of 8 or 16 bits.")
        label = whole.astype(np.int64)
    if label.dtype == bool:
        label = label.astype(np.uint8)
    spread = SPREAD.get(raw, 1)
    return label // spread if spread > 1 else label


def _equal_channels(label: np.ndarray, mode: str, path: str | Path) -> np.ndarray:
    if mode in OTHER_COLOURS:
        raise LabelError(f"{path}: a label map in {mode} colours; expected the number of a class for every pixel (one "
                         "channel, grey or palette). Export it as PNG, grey or palette.")
    alpha = mode in ("LA", "La", "PA", "RGBA", "RGBa")
    channels = label[..., :-1] if alpha else label
    if alpha and int(label[..., -1].min()) != int(label[..., -1].max()):
        raise LabelError(f"{path}: a label map with an alpha channel that is not one value; expected one channel (grey "
                        "or palette). Write the numbers of the classes into one channel, without transparency.")
    if (channels == channels[..., :1]).all():
        return channels[..., 0]
    colours, counts = np.unique(channels.reshape(-1, channels.shape[-1]), axis=0, return_counts=True)
    first = colours[np.argsort(-counts, kind="stable")[:MOST_SHOWN]]
    words = [f"'{','.join(str(level) for level in colour)}'" for colour in first.tolist()]
    more = ", ..." if len(colours) > len(first) else ""
    raise LabelError(f"{path}: a label map with {len(colours)} colours ({', '.join(words)}{more}; {mode}); expected "
                    "the number of a class for every pixel (one channel, grey or palette). Say which class a colour is:"
                    f" label_map: {{{', '.join(f'{word}: CLASS' for word in words[:3])}, ...}} in the YAML, or convert "
                    "the files.")


def mapped_numbers(label: np.ndarray, label_map: Mapping[str, int], *, ignored: int, unlisted: Unlisted,
                   path: str | Path) -> np.ndarray:
    """Labels of any shape by a map of numbers; `unlisted` as in `read_label`."""
    if not label_map:
        return label
    if label.dtype == np.uint8:
        every = np.flatnonzero(np.bincount(label.reshape(-1), minlength=256))
    else:
        label = label.astype(np.int64)
        every = np.unique(label)
    known = {int(source): target for source, target in label_map.items()}
    if unlisted != "keep":
        others = [number for number in every.tolist() if number not in known and number != ignored]
        if others and unlisted == "refuse":
            raise _unlisted(path, f"labels {_listed(np.asarray(others))}", known)
        known.update((number, int(unlisted)) for number in others)
    if label.dtype == np.uint8:
        table = np.arange(256)
        for source, target in known.items():
            if source < 256:
                table[source] = target
        return table[label]
    found = label.copy()
    for source, target in known.items():
        found[label == source] = target
    return found


def _from_colours(image: Image.Image, raw: str, label_map: Mapping[str, int], path: str | Path, *, ignored: int,
                  unlisted: Unlisted) -> np.ndarray:
    """Labels by a map of colours, or of colours and numbers: a number is a palette's index or a grey level."""
    pixels = np.asarray(image.convert("RGB"))
    numbers = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    found = np.full(numbers.shape, -1)
    known = np.zeros(numbers.shape, bool)
    for colour, target in label_map.items():
        if "," in colour:
            red, green, blue = (int(part) for part in re.split(r", ?", colour))
            here = numbers == red * 65536 + green * 256 + blue
            found[here], known = target, known | here
    plain = {int(key): target for key, target in label_map.items() if "," not in key}
    if plain:
        levels = np.asarray(image)
        grey = np.where((pixels == pixels[..., :1]).all(-1), pixels[..., 0].astype(np.int64), -1)
        levels = grey if levels.ndim == 3 else _one_channel(levels, image.mode, raw, path)
        for level, target in plain.items():
            here = levels == level
            twice = here & known & (found != target)
            if twice.any():
                raise LabelError(f"{path}: pixels of label {level} have the colour "
                                 f"{','.join(map(str, pixels[twice][0].tolist()))}, and label_map makes {target} of "
                                 f"the one and {int(found[twice][0])} of the other. Leave one of them out.")
            found[here], known = target, known | here
    if not known.all() and isinstance(unlisted, int):
        found[~known], known = unlisted, np.ones_like(known)
    if not known.all():
        unknown = np.unique(pixels[~known], axis=0)[:MOST_SHOWN].tolist()
        raise LabelError(f"{path}: {np.count_nonzero(~known)} pixels have colours that label_map does not name: "
                         f"{'; '.join(','.join(map(str, colour)) for colour in unknown)}. Add them to label_map (or to "
                         "the table classes).")
    return found


def _unlisted(path: str | Path, what: str, known: Mapping[int, int]) -> LabelError:
    return LabelError(f"{path}: {what} are neither in the table of classes nor in label_map, which have "
                      f"{_listed(np.asarray(sorted(known)))}. Add them (the table's entry `ignore` takes those without "
                      "a class), or let them all become one class: NAME: rest.")


def label_counts(label: np.ndarray, num_classes: int, ignored: int, path: str) -> np.ndarray:
    """Pixels of every class and, last, ignored ones: int64 (classes + 1,).

    Raises DataError, with what is found and the remedy, for a label outside 0 .. num_classes - 1 that is not ignored.
    """
    if label.dtype == np.uint8:
        every = np.bincount(label.reshape(-1), minlength=256)  # no sorting of a quarter of a million pixels
        values = np.flatnonzero(every)
        pixels = every[values]
    else:
        values, pixels = np.unique(label, return_counts=True)
    kept = values != ignored
    wrong = kept & ((values < 0) | (values >= num_classes))
    if wrong.any():
        raise _wrong_labels(values, num_classes, ignored, path)
    found = np.zeros(num_classes + 1, dtype=np.int64)
    found[values[kept]] = pixels[kept]
    found[-1] = pixels[~kept].sum()
    return found


def _wrong_labels(every: np.ndarray, num_classes: int, ignored: int, path: str) -> DataError:
    found = every[every != ignored]
    wrong = int(found[-1]) if int(found[-1]) >= num_classes else int(found[0])
    return DataError(f"{path}: a label is {wrong}, the model has {num_classes} classes (0 .. {num_classes - 1}; "
                     f"{ignored} is ignored). Labels here: {_listed(every)}. "
                     f"{_remedy(every, num_classes, ignored, wrong)}")


def _remedy(every: np.ndarray, num_classes: int, ignored: int, wrong: int) -> str:
    """What to write into the YAML for labels like these."""
    found = every[every != ignored]
    if set(found.tolist()) <= {0, 255}:
        return "A mask of 0 and 255: set label_map: {255: 1}."
    if int(found[0]) >= 1 and int(found[-1]) == num_classes:
        pairs = [f"{i}: {i - 1}" for i in range(1, num_classes + 1)]
        shown = ", ".join(pairs if len(pairs) <= 20 else [*pairs[:2], "...", pairs[-1]])
        return f"If labels go from 1 to {num_classes}: label_map: {{{shown}}}."
    levels = ""
    if len(every) == num_classes and int(every[0]) == 0:  # 0, 128, 255: greys that can be told apart by eye
        pairs = [f"{int(value)}: {i}" for i, value in enumerate(every) if int(value) != i]
        levels = f"If every level here is a class: label_map: {{{', '.join(pairs)}}}. "
    outside = [int(value) for value in found if not 0 <= value < num_classes]
    if len(outside) == 1:
        return (f"{levels}If {wrong} marks pixels without a class (void): ignore_index: {wrong}, or label_map: "
                f"{{{wrong}: {ignored}}}. If it is one more class: raise num_classes.")
    mapped = ", ".join(f"{value}: CLASS" for value in found[:3].tolist())
    return f"{levels}Say which class each is: label_map: {{{mapped}, ...}}, or raise num_classes."


def _listed(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:MOST_SHOWN].tolist())
    return shown + (f", ... ({len(values)})" if len(values) > MOST_SHOWN else "")
