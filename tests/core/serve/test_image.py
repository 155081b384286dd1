# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes are sent: an RGB image read as the run reads its images, or one reason why not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beitv2_core.data.sources.image_file import decode
from beitv2_core.serve.image import FORMATS, read_image
from beitv2_core.serve.problem import Problem

LEFT, RIGHT = (200, 30, 40), (20, 60, 220)
SAVED = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "GIF": {}, "BMP": {}, "TIFF": {}, "DIB": {},
         "PPM": {}, "JPEG2000": {}, "MPO": {"quality": 95}}
Image.init()
if "AVIF" in Image.SAVE:  # Pillow 11.3 and newer
    SAVED["AVIF"] = {"quality": 95}


def two_halves(width=40, height=20, mode="RGB") -> Image.Image:
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image.convert(mode)


def saved(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data, max_pixels=10**6):
    return read_image(data, max_pixels=max_pixels)


def refused(data, status, **options) -> str:
    with pytest.raises(Problem) as caught:
        read(data, **options)
    assert caught.value.status == status
    return str(caught.value)


def test_every_format_that_is_read_is_tried():
    assert {*SAVED, "AVIF"} == set(FORMATS)


@pytest.mark.parametrize("kind", SAVED)
def test_every_format_is_told_by_its_content(kind):
    got = read(saved(two_halves(), kind, **SAVED[kind]))
    assert (got.image.size, got.image.mode) == ((40, 20), "RGB")
    assert got.format == {"MPO": "JPEG", "DIB": "DIB"}.get(kind, kind)
    np.testing.assert_allclose(got.image.getpixel((5, 10)), LEFT, atol=8)
    np.testing.assert_allclose(got.image.getpixel((35, 10)), RIGHT, atol=8)
    assert got.notes == []


def test_plain_images_are_decoded_as_training_decodes_them(tmp_path):
    data = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)), "JPEG")
    (tmp_path / "x.jpg").write_bytes(data)
    np.testing.assert_array_equal(np.asarray(read(data).image), np.asarray(decode(tmp_path / "x.jpg")))


@pytest.mark.parametrize(("orientation", "size", "corner"), [(1, (40, 20), LEFT), (3, (40, 20), RIGHT),
                                                             (6, (20, 40), LEFT), (8, (20, 40), RIGHT)])
def test_exif_turns_the_image_where_the_run_turns_its_own(orientation, size, corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(two_halves(), "JPEG", exif=exif, quality=95)
    got = read_image(data, max_pixels=10**6, upright=True)
    assert got.image.size == size
    np.testing.assert_allclose(got.image.getpixel((2, 2)), corner, atol=8)
    assert (got.notes == []) == (orientation == 1)
    stored = read(data)
    assert stored.image.size == (40, 20) and (stored.notes == []) == (orientation == 1)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK", "1"])
def test_every_kind_of_file_is_read_as_the_run_reads_it(tmp_path, mode, upright):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    elif mode != "RGBA":
        image = image.convert("RGB" if mode in ("CMYK", "1") else mode).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(image, "TIFF" if mode == "CMYK" else "PNG", **({} if mode == "CMYK" else {"exif": exif}))
    (tmp_path / "x").write_bytes(data)
    seen = read_image(data, max_pixels=10**6, upright=upright).image
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(decode(tmp_path / "x", upright=upright)))


def test_damaged_exif_costs_the_turn_and_not_the_image():
    plain = saved(two_halves(), "JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\xff" * 5
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert read(data).image.size in ((40, 20), (20, 40))


def test_dropped_transparency_is_told():
    image = two_halves(mode="RGBA")
    assert read(saved(image)).notes == []
    image.putpixel((0, 0), (0, 0, 0, 0))
    got = read(saved(image))
    assert got.image.getpixel((0, 0)) == (0, 0, 0) and got.image.getpixel((35, 10)) == RIGHT
    assert "transparency was dropped" in got.notes[0]


def test_printing_colours_are_seen_as_colours():
    got = read(saved(two_halves(mode="CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(got.image.getpixel((5, 10)), LEFT, atol=12)
    assert "CMYK" in got.notes[0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_keep_their_brightness(kind):
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    got = read(saved(Image.fromarray(levels), kind))
    np.testing.assert_allclose(np.asarray(got.image)[..., 1], levels / 257, atol=1)
    assert got.notes == ["brightness scaled to 8 bits"]


@pytest.mark.parametrize("largest", [1.0, 255.0, 1e6])
def test_floating_point_greys_reach_from_black_to_white(largest):
    levels = np.linspace(0.0, largest, 64, dtype=np.float32).reshape(8, 8)
    levels[0, 1] = np.nan
    seen = np.asarray(read(saved(Image.fromarray(levels), "TIFF")).image)
    assert seen[0, 0].tolist() == [0, 0, 0] and seen[-1, -1].tolist() == [255, 255, 255]


def test_of_moving_images_the_first_frame_is_taken():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (LEFT, RIGHT, (0, 255, 0))]
    for kind in ("GIF", "WEBP"):
        got = read(saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50))
        np.testing.assert_allclose(got.image.getpixel((8, 8)), LEFT, atol=10)
        assert "the first of 3 frames" in got.notes


def test_the_frames_of_a_tiff_are_not_counted_without_end():
    frames = [Image.new("L", (8, 8), number) for number in range(150)]
    got = read(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    assert "the first of 100 or more frames" in got.notes and got.image.getpixel((0, 0)) == (0, 0, 0)


def test_grey_and_one_bit_images_become_rgb():
    for mode in ("L", "1", "P"):
        assert read(saved(two_halves(mode=mode))).image.mode == "RGB"


def test_what_is_no_image_is_told_with_what_is_expected():
    for data in (b"GET / HTTP/1.1", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>", b"\0" * 100):
        assert "Expected JPEG, PNG" in refused(data, 415)
    assert "HEIC" in refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), 415)


def test_damaged_images_are_told_and_name_no_file():
    for kind in ("PNG", "JPEG", "GIF"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        data = saved(Image.fromarray(noise), kind)
        message = refused(data[: len(data) // 2], 422)
        assert "cannot be decoded" in message and "/" not in message


def test_too_many_pixels_are_refused_before_decoding():
    def header_only(width, height):
        chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
                + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))

    assert "10,000 x 10,000" in refused(header_only(10000, 10000), 413).replace("10000", "10,000")
    assert "at most 1,000,000" in refused(header_only(2**30, 2**30), 413)  # beyond Pillow's own limit
    assert read(saved(two_halves(1000, 1000))).image.size == (1000, 1000)
    refused(saved(two_halves(1001, 1000)), 413)


def test_thread_like_images_are_refused():
    assert "20 times" in refused(saved(two_halves(2100, 100)), 422)
    assert read(saved(two_halves(2000, 100))).image.size == (2000, 100)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(SAVED)),
       places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6), keep=st.floats(0.05, 1.0))
def test_damaged_bytes_give_a_image_or_a_reason(kind, places, keep):
    data = bytearray(saved(two_halves(24, 16), kind))
    for place, value in places:
        data[int(place * len(data))] = value
    try:
        got = read(bytes(data[: max(1, int(keep * len(data)))]))
    except Problem as problem:
        assert problem.status in (413, 415, 422)
    else:
        assert got.image.mode == "RGB" and got.image.width * got.image.height <= 10**6
