# SPDX-License-Identifier: Apache-2.0
"""Hundreds of images damaged in every way that files get damaged, drawn from a seed."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zlib
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from PIL import Image

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


class Bad(NamedTuple):
    """A file, how it was damaged, and what must come of it: True an image, False a refusal, None either."""

    path: bytes
    damage: str
    readable: Optional[bool]


def image(draw: random.Random, size: Optional[tuple[int, int]] = None, mode: str = "RGB") -> Image.Image:
    """Random colours, smooth enough to be compressed."""
    width, height = size or (draw.randint(8, 60), draw.randint(8, 60))
    small = np.random.RandomState(draw.getrandbits(32)).randint(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The image as a file's content."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(1, max(2, 2 * len(content) // 3))]


def flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 20)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def zero_range(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    length = draw.randint(1, max(1, len(content) // 3))
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length:]


def fill_middle(content: bytes, draw: random.Random) -> bytes:
    middle = len(content) // 2
    return content[:middle] + draw.randbytes(64) + content[middle + 64:]


def wrong_magic(content: bytes, draw: random.Random) -> bytes:
    return b"\x00\x01\x02\x03\x05\x07\x0b\x0d" + content[8:]


def huge_png(width: int, height: int) -> bytes:
    """A few hundred bytes that declare width x height pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def huge_jpeg(draw: random.Random) -> bytes:
    content = bytearray(encoded(image(draw), "JPEG"))
    start = content.index(b"\xff\xc0")
    content[start + 5:start + 9] = struct.pack(">HH", 65000, 65000)
    return bytes(content)


def huge_bmp(draw: random.Random) -> bytes:
    content = bytearray(encoded(image(draw), "BMP"))
    content[18:26] = struct.pack("<ii", 100000, 100000)
    return bytes(content)


#: damage, and whether what it leaves can never be read
DAMAGES: list[tuple[str, Callable[[bytes, random.Random], bytes], Optional[bool]]] = [
    ("truncated", cut, False), ("bits flipped", flip_bits, None), ("range zeroed", zero_range, None),
    ("middle overwritten", fill_middle, None), ("wrong magic", wrong_magic, False)]


def write_bad_images(folder: Path, seed: int, each: int = 12) -> list[Bad]:
    """`each` files for every damage and format, and the odd ones: over 300 in all, in subfolders by damage."""
    draw = random.Random(seed)
    made: list[Bad] = []

    def put(damage: str, name: str, content: Optional[bytes], readable: Optional[bool]) -> bytes:
        place = folder / damage.replace(" ", "_").replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        path = os.fsencode(place) + b"/" + os.fsencode(name)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        made.append(Bad(path, damage, readable))
        return path

    for form, ending in FORMATS.items():
        for damage, function, readable in DAMAGES:
            for number in range(each):
                content = function(encoded(image(draw), form), draw)
                put(damage, f"{form}_{number:02d}{ending}", content, readable)
        for other in FORMATS.values():
            if other != ending:
                put("wrong extension", f"{form}{other}", encoded(image(draw), form), True)
        put("one pixel", f"{form}{ending}", encoded(image(draw, (1, 1)), form), True)
        put("thin", f"{form}{ending}", encoded(image(draw, (1, 400)), form), True)
        put("flat", f"{form}{ending}", encoded(image(draw, (400, 2)), form), True)
    for width, height in ((50000, 50000), (2**31 - 1, 2**31 - 1), (12000, 12000), (0, 10), (1, 100_000_000)):
        put("huge declared size", f"{width}x{height}.png", huge_png(width, height), False)
    put("huge declared size", "a.jpg", huge_jpeg(draw), False)
    put("huge declared size", "a.bmp", huge_bmp(draw), False)
    put("declared size never delivered", "a.png", huge_png(6000, 6000), False)
    put("CMYK", "a.jpg", encoded(image(draw, mode="CMYK"), "JPEG"), True)
    put("16 bit", "a.png", encoded(Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70), "PNG"), True)
    put("16 bit", "a.tif", encoded(Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70), "TIFF"), True)
    for mode in ("P", "1", "L", "LA", "RGBA"):
        put("odd modes", f"{mode}.png", encoded(image(draw, mode=mode), "PNG"), True)
    put("palette with transparency", "a.png", encoded(image(draw, mode="P"), "PNG", transparency=3), True)
    frames = [image(draw, (20, 20)) for _ in range(3)]
    for form, name in (("GIF", "animated.jpg"), ("WEBP", "animated.webp"), ("PNG", "animated.png")):
        content = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
        put("animated", name, content, True)
    for number in range(8):
        put("EXIF nonsense", f"{number}.jpg",
            encoded(image(draw), "JPEG", exif=b"Exif\x00\x00" + draw.randbytes(draw.randint(0, 300))), True)
    for ending in FORMATS.values():
        put("empty file", f"a{ending}", b"", False)
        put("text", f"a{ending}", b"<html><body>404</body></html>\n", False)
    put("name not UTF-8", os.fsdecode(b"good_\xff\xfe.png"), encoded(image(draw), "PNG"), True)
    put("name not UTF-8", os.fsdecode(b"bad_\xff\xfe.png"), b"nothing", False)
    put("name with odd signs", "a b\tc\"'%$;\u2028\n.png", encoded(image(draw), "PNG"), True)
    os.mkfifo(put("pipe", "a.jpg", None, False))
    with socket.socket(socket.AF_UNIX) as listening:
        name = b"/tmp/s%d" % os.getpid()  # a socket's path may have 108 signs only
        listening.bind(name)
        os.rename(name, put("socket", "a.jpg", None, False))
    os.symlink("/nowhere/at/all.jpg", put("dangling link", "a.jpg", None, False))
    os.symlink("a.jpg", put("link to itself", "a.jpg", None, False))
    os.symlink("/dev/zero", put("link to a device", "a.jpg", None, False))
    inside = folder / "folder_named_as_a_image" / "a.jpg"
    inside.mkdir(parents=True)
    (inside / "b.png").write_bytes(encoded(image(draw), "PNG"))
    made.append(Bad(os.fsencode(inside / "b.png"), "folder named as an image", True))
    return made
