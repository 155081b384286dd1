# SPDX-License-Identifier: Apache-2.0
"""Small image files and label maps of every format that is read, and files that ask for much time or memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, features

SIZE = (41, 29)
#: most pixels that the parsers are told to allow
MAX_PIXELS = 4_000_000


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def images() -> dict[str, bytes]:
    """A whole file of each format and each way of storing pixels, by a name with the usual ending."""
    draws = np.random.default_rng(0)
    photo = Image.fromarray(draws.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))
    grey, deep = photo.convert("L"), Image.fromarray(draws.integers(0, 65536, SIZE[::-1]).astype(np.uint16))
    alpha, few = photo.convert("RGBA"), photo.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [photo.rotate(90 * n).resize(SIZE) for n in range(3)]}
    found = {
        "baseline.jpg": _saved(photo, "JPEG", exif=exif), "progressive.jpg": _saved(photo, "JPEG", progressive=True),
        "cmyk.jpg": _saved(photo.convert("CMYK"), "JPEG"), "grey.jpeg": _saved(grey, "JPEG"),
        "rgb.png": _saved(photo, "PNG", exif=exif), "rgba.png": _saved(alpha, "PNG"), "palette.png": _saved(few, "PNG"),
        "deep.png": _saved(deep, "PNG"), "bits.png": _saved(photo.convert("1"), "PNG"),
        "frames.png": _saved(photo, "PNG", **frames), "frames.gif": _saved(few, "GIF", **frames),
        "plain.bmp": _saved(photo, "BMP"), "palette.bmp": _saved(few, "BMP"), "plain.dib": _saved(photo, "DIB"),
        "plain.tif": _saved(photo, "TIFF"), "deep.tif": _saved(deep, "TIFF"),
        "float.tif": _saved(Image.fromarray(draws.random(SIZE[::-1], dtype=np.float32)), "TIFF"),
        "lzw.tif": _saved(photo, "TIFF", compression="tiff_lzw"), "zip.tif": _saved(alpha, "TIFF",
                                                                                    compression="tiff_adobe_deflate"),
        "jpeg.tif": _saved(photo, "TIFF", compression="jpeg"), "frames.tif": _saved(photo, "TIFF", **frames),
        "plain.ppm": _saved(photo, "PPM"), "plain.pgm": _saved(grey, "PPM"), "deep.pgm": _saved(deep, "PPM"),
        "bits.pbm": _saved(photo.convert("1"), "PPM"), "text.ppm": b"P3 2 1 255\n1 2 3 4 5 6\n",
        "two.mpo": _saved(photo, "MPO", save_all=True, append_images=[photo]),
    }
    if features.check("webp"):
        found.update({"lossy.webp": _saved(photo, "WEBP", exif=exif), "whole.webp": _saved(alpha, "WEBP",
                                                                                           lossless=True),
                      "frames.webp": _saved(photo, "WEBP", **frames)})
    if features.check("jpg_2000"):
        found.update({"plain.jp2": _saved(photo, "JPEG2000"), "stream.j2k": _saved(grey, "JPEG2000", no_jp2=True)})
    if features.check("avif"):
        found["plain.avif"] = _saved(photo, "AVIF")
    return found


def label_maps() -> dict[str, bytes]:
    """Label maps as palettes, greys of 1 to 32 bits, floats, and colours."""
    draws = np.random.default_rng(1)
    numbers = draws.integers(0, 5, SIZE[::-1], dtype=np.uint8)
    grey = Image.fromarray(numbers)
    palette = grey.copy()
    palette.putpalette(bytes(range(256)) * 3)
    return {
        "palette.png": _saved(palette, "PNG"), "few.png": _saved(palette, "PNG", bits=4), "grey.png": _saved(grey,
                                                                                                             "PNG"),
        "deep.png": _saved(Image.fromarray(numbers.astype(np.uint16)), "PNG"), "grey.bmp": _saved(grey, "BMP"),
        "bits.png": _saved(grey.point(lambda level: level * 60).convert("1"), "PNG"),
        "int.tif": _saved(Image.fromarray(numbers.astype(np.int32)), "TIFF"), "grey.gif": _saved(grey, "GIF"),
        "float.tif": _saved(Image.fromarray(numbers.astype(np.float32)), "TIFF"),
        "rgb.png": _saved(Image.merge("RGB", [grey] * 3), "PNG"), "grey.webp": _saved(grey, "WEBP", lossless=True),
        "alpha.png": _saved(Image.merge("LA", [grey, grey.point(lambda _: 255)]), "PNG"),
    }


def costly() -> Iterator[tuple[str, bytes]]:
    """Files of less than a megabyte whose reader may work for very long, or take very much memory."""
    black = Image.new("L", (1900, 1900))
    packed = zlib.compress(bytes(1901 * 1900), 9)
    yield "large but allowed.png", _saved(black, "PNG")
    yield "large in 16 bits.png", _saved(Image.new("I;16", (1900, 1900)), "PNG")
    yield "large floats.tif", _saved(Image.new("F", (1000, 1000)), "TIFF", compression="tiff_lzw")
    for width, height in ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (2_000_000, 1_999_999)):
        yield f"{width} x {height}.png", png(width, height, packed)
        yield f"{width} x {height}.bmp", _saved(black, "BMP")[:18] + struct.pack("<ii", width, height) + bytes(900)
        yield f"{width} x {height}.ppm", f"P6 {width} {height} 255\n".encode() + bytes(900)
        yield f"{width} x {height}.gif", b"GIF89a" + struct.pack("<HH", width & 65535, height & 65535) + bytes(900)
    yield "text of 60 MB.png", png(2, 2, zlib.compress(bytes(6)), (b"zTXt", b"t\0\0" + zlib.compress(bytes(60 << 20),
                                                                                                     9)))
    yield "profile of 60 MB.png", png(2, 2, zlib.compress(bytes(6)),
                                      (b"iCCP", b"p\0\0" + zlib.compress(bytes(60 << 20), 9)))
    yield "too many pixels in the data.png", png(2, 2, zlib.compress(bytes(60 << 20), 9))
    yield "many scans.jpg", many_scans(1900, 20_000)
    yield "many frames.gif", many_gif_frames(60_000)
    yield "many directories.tif", many_directories(8_000)
    yield "directories in a circle.tif", b"II*\0" + struct.pack("<IHI", 8, 0, 8)
    yield "many chunks.png", png(2, 2, zlib.compress(bytes(6)), *[(b"teXt", b"")] * 60_000)
    yield "many comments.jpg", b"\xff\xd8" + b"\xff\xfe\0\2" * 200_000 + images()["baseline.jpg"][2:]
    yield "many comments.ppm", b"P6" + b"#\n" * 400_000 + b"2 1 255\n123456"
    yield "long number.ppm", b"P6 " + b"1" * 900_000 + b" 1 255\n"
    yield "long text.ppm", b"P3 1000 1000 255\n" + b"1 " * 300_000


def png(width: int, height: int, packed: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of 8 bits that says it has these sides, whatever its packed rows hold."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *extra, (b"IDAT", packed), (b"IEND",
                                                                                                            b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(content)) + kind + content +
                                          struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks)


def many_scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan comes many times."""
    data = _saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def many_gif_frames(count: int) -> bytes:
    """A GIF of one pixel many times."""
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * count + b";"


def many_directories(count: int) -> bytes:
    """A TIFF with one image and many directories behind it, each of one entry."""
    first = _saved(Image.new("L", (8, 8)), "TIFF")
    start = struct.unpack("<I", first[4:8])[0]
    entries = struct.unpack("<H", first[start : start + 2])[0]
    link = start + 2 + 12 * entries
    out, at = bytearray(first), len(first) + len(first) % 2
    out += bytes(at - len(out))
    out[link : link + 4] = struct.pack("<I", at)
    directory = bytes(first[start : link])
    for number in range(count):
        following = at + len(directory) + 4
        out += directory + struct.pack("<I", following if number + 1 < count else 0)
        at = following
    return bytes(out)
