# SPDX-License-Identifier: Apache-2.0
"""One reader of images: what every kind of file becomes, and what is said of files that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from beitv2_core.data.sources.image_file import (
    ImageRefused,
    Reading,
    TooManyPixels,
    decode,
    decode_bytes,
    decode_file,
    explain,
    foreign_kind,
)

ORIENTATION = 0x0112


def noise(height=24, width=40) -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image, kind, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data, **options) -> np.ndarray:
    return np.asarray(decode_bytes(data, reading=Reading(**options)).image)


def turned_file(kind, orientation) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(noise(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turn_in_the_exif_data_is_applied_where_it_is_asked_for_only(kind, orientation):
    data = turned_file(kind, orientation)
    with Image.open(io.BytesIO(data)) as image:
        stored, upright = np.asarray(image.convert("RGB")), np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read(data), stored)
    np.testing.assert_array_equal(read(data, upright=True), upright)


def test_a_turned_photograph_decoded_smaller_has_the_sizes_of_the_upright_one():
    data = turned_file("JPEG", 6)
    asked = []
    found = decode_file(io.BytesIO(data), lambda size: asked.append(size) or 2, Reading(upright=True))
    assert asked == [(24, 40)] and found.full_size == (24, 40) and found.image.size == (12, 20) and found.reduction == 2
    assert decode_bytes(data).full_size == (40, 24)


def test_16_bit_greys_of_one_folder_stay_comparable():
    dark, bright = (np.full((8, 8), level, np.uint16) for level in (8000, 50000))
    for kind in ("PNG", "TIFF"):
        assert np.unique(read(saved(Image.fromarray(dark), kind))).tolist() == [round(8000 / 257)]
        assert np.unique(read(saved(Image.fromarray(bright), kind))).tolist() == [round(50000 / 257)]


def test_8_bit_values_stored_in_16_bits_keep_their_meaning():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(read(saved(Image.fromarray(levels), "PNG"))[..., 0], levels)


@pytest.mark.parametrize("big", [False, True])
def test_16_bit_colour_keeps_its_high_byte(big):
    import struct
    import zlib

    levels = np.random.RandomState(1).randint(0, 65536, (6, 7, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in levels)

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    data = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 6, 16, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows, 9 if big else 1)) + chunk(b"IEND", b""))
    np.testing.assert_array_equal(read(data), levels >> 8)


@pytest.mark.parametrize(("values", "black", "white"), [((0.0, 1.0), 0, 255), ((0.0, 255.0), 0, 255),
                                                        ((-4.0, 12.0), 0, 255), ((0.0, 65535.0), 0, 255)])
def test_floating_point_greys_reach_from_black_to_white(values, black, white):
    levels = np.linspace(*values, 64, dtype=np.float32).reshape(8, 8)
    found = read(saved(Image.fromarray(levels), "TIFF"))
    assert (found[0, 0, 0], found[-1, -1, 0]) == (black, white)


def test_transparency_is_dropped_as_the_official_loader_does():
    image = noise().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    np.testing.assert_array_equal(read(saved(image, "PNG")), np.asarray(noise()))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 30, 40), (0, 255, 0), (0, 0, 255))]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(read(data)[8, 8], (200, 30, 40), atol=6)


def test_more_pixels_than_the_limit_are_refused_with_size_limit_and_setting_and_can_be_allowed(monkeypatch):
    data = saved(Image.new("1", (1200, 1000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)  # Pillow itself would raise from twice this on
    with pytest.raises(TooManyPixels) as caught:
        read(data, max_pixels=1_000_000)
    assert all(fact in str(caught.value) for fact in ("1200 x 1000", "1,000,000", "data.max_pixels=1200000"))
    found = decode_bytes(data, reading=Reading(max_pixels=1_200_000)).image
    assert found.size == (1200, 1000) and found.crop((0, 0, 1200, 999)).size == (1200, 999)
    text = str(explain("x.png", caught.value))
    assert text.startswith("x.png: ") and "1200 x 1000" in text and "emove" not in text and "epair" not in text


@pytest.mark.parametrize(("head", "name"), [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"), (b"\0\0\0\x18ftypmif1", "HEIF"), (b"<svg xmlns=", "SVG"),
    (b"\xef\xbb\xbf  <!DOCTYPE html>", "HTML"), (b"version https://git-lfs.github.com/spec/v1", "LFS"),
    (b"%PDF-1.4", "PDF"), (b"\0\0\0\x0cJXL \r\n", "JPEG XL"), (b"", "empty"), (bytes(128) + b"DICM", "DICOM"),
])
def test_what_is_no_image_that_is_read_is_named(head, name):
    assert name in foreign_kind(head)
    with pytest.raises(ImageRefused, match=name):
        decode_bytes(head + bytes(100) if head else head)


def test_a_tiff_that_pillow_does_not_read_is_called_a_tiff_with_what_is_read(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((4, 5, 3), np.float32))
    with pytest.raises(ImageRefused, match=r"a TIFF whose channels .* 8 bits"):
        decode(tmp_path / "a.tif")


def test_a_damaged_file_is_told_with_what_to_do(tmp_path):
    data = saved(noise(), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError) as caught:
        decode(tmp_path / "cut.jpg")
    assert "cut.jpg" in str(explain(tmp_path / "cut.jpg", caught.value))


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImageRefused, match="PostScript"):
        decode(tmp_path / "x.jpg")


def test_a_jpeg_of_thousands_of_scans_is_refused_soon_and_one_with_a_film_behind_it_is_read(tmp_path):
    data = saved(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    (tmp_path / "many.jpg").write_bytes(data[:last] + data[last:-2] * 3000 + data[-2:])
    with pytest.raises(ImageRefused, match="1000 x 1000 pixels in more than 2000 scans"):
        decode(tmp_path / "many.jpg")
    (tmp_path / "film.jpg").write_bytes(data + b"\xff\xda" * 3000)
    assert decode(tmp_path / "film.jpg").size == (1000, 1000)
