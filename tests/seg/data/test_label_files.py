# SPDX-License-Identifier: Apache-2.0
"""Label maps of every form: read as the same classes, or named with what came and what to do."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from own_data import COLOURS, as_png, palette, scene
from PIL import Image

from beitv2_core.errors import DataError
from beitv2_seg.data.label_files import label_counts, read_label


def grey_of_bits(bits):
    """A grey PNG of 2 or 4 bits a pixel, which Pillow reads multiplied."""
    def save(label, path):
        packed = np.packbits(np.unpackbits(label[..., None], axis=-1)[..., 8 - bits:].reshape(len(label), -1), axis=1)
        rows = b"".join(b"\0" + row.tobytes() for row in packed)
        parts = [(b"IHDR", struct.pack(">IIBBBBB", label.shape[1], label.shape[0], bits, 0, 0, 0, 0)),
                 (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in parts))
    return save


FORMS = {
    "grey": (as_png, "png"),
    "palette": (palette, "png"),
    "two bits": (grey_of_bits(2), "png"),
    "four bits": (grey_of_bits(4), "png"),
    "three equal channels": (lambda a, p: as_png(np.repeat(a[..., None], 3, 2), p), "png"),
    "RGBA": (lambda a, p: as_png(np.dstack([a, a, a, np.full_like(a, 255)]), p), "png"),
    "grey and alpha": (lambda a, p: Image.fromarray(np.dstack([a, np.full_like(a, 255)]), "LA").save(p), "png"),
    "16 bits": (lambda a, p: as_png(a.astype(np.uint16), p), "png"),
    "32 bits": (lambda a, p: as_png(a.astype(np.int32), p), "tif"),
    "whole floats": (lambda a, p: as_png(a.astype(np.float32), p), "tif"),
    "bmp": (as_png, "bmp"),
    "gif": (palette, "gif"),
    "tiff": (lambda a, p: Image.fromarray(a).save(p, compression="tiff_lzw"), "tif"),
    "webp": (lambda a, p: Image.fromarray(np.dstack([a] * 3)).save(p, lossless=True), "webp"),
    "jpeg 2000": (as_png, "jp2"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_label_map_is_read_as_the_same_classes(tmp_path, form):
    save, ending = FORMS[form]
    label = scene()[1]
    save(label, tmp_path / f"a.{ending}")
    found = read_label(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(found, label)
    assert found.dtype == np.uint8


def test_a_mask_of_one_bit_is_classes_0_and_1(tmp_path):
    mask = scene()[1] > 0
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), mask)


def test_numbers_above_255_and_negative_ignored_labels_keep_their_value(tmp_path):
    label = scene()[1].astype(np.uint16) + 300
    as_png(label, tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), label)
    assert read_label(tmp_path / "a.png", {"300": -1}, ignored=-1).min() == -1


@pytest.mark.parametrize(("save", "ending", "facts"), [
    (lambda a, p: as_png(COLOURS[a], p), "png", ("3 colours", "'0,0,0'", "'128,0,0'", "label_map")),
    (lambda a, p: Image.fromarray(a * 100).save(p, quality=95), "jpg", ("JPEG", "PNG")),
    (lambda a, p: as_png(a + np.float32(0.5), p), "tif", ("0.5", "floats")),
    (lambda a, p: cv2.imwrite(str(p), np.dstack([a] * 3).astype(np.uint16)), "png", ("16 bits", "one channel")),
    (lambda a, p: as_png(np.dstack([a, a, a, a]), p), "png", ("alpha", "one channel")),
    (lambda a, p: Image.fromarray(a).save(p, compression="jpeg"), "tif", ("TIFF", "jpeg", "PNG")),
    (lambda a, p: Image.fromarray(np.dstack([a] * 3)).save(p, quality=90), "webp", ("lossy WebP", "PNG")),
    (lambda a, p: Image.fromarray(a).save(p, quality_mode="rates", quality_layers=[20], irreversible=True), "jp2",
     ("lossy JPEG 2000", "PNG")),
    (lambda a, p: Image.fromarray(np.dstack([a] * 3)).convert("CMYK").save(p), "tif", ("CMYK", "one channel")),
    (lambda a, p: np.save(open(p, "wb"), a), "npy", ("numpy array",)),
])
def test_a_label_map_that_does_not_tell_the_class_is_named(tmp_path, save, ending, facts):
    path = tmp_path / f"label.{ending}"
    save(scene()[1], path)
    with pytest.raises(DataError) as error:
        read_label(path)
    for fact in (*facts, *((path.name,) if ending != "npy" else ())):
        assert fact in str(error.value)


def test_a_mapping_makes_classes_of_numbers_and_of_colours(tmp_path):
    label = scene()[1]
    as_png(np.where(label > 0, 255, 0).astype(np.uint8), tmp_path / "mask.png")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png", {"255": 1}), label > 0)
    as_png(COLOURS[label], tmp_path / "colours.png")
    palette(label, tmp_path / "palette.png")  # its colours are in the other order
    colours = {"0,0,0": 0, "128,0,0": 1, "0,128,0": 2}
    np.testing.assert_array_equal(read_label(tmp_path / "colours.png", colours), label)
    np.testing.assert_array_equal(read_label(tmp_path / "palette.png", colours), np.array([2, 1, 0])[label])
    with pytest.raises(DataError, match=r"colours.png: .* 0,128,0"):
        read_label(tmp_path / "colours.png", {"0,0,0": 0, "128,0,0": 1})


@pytest.mark.parametrize(("values", "classes", "remedy"), [
    ([0, 1, 11], 11, "ignore_index: 11"),
    ([0, 255], 2, "label_map: {255: 1}"),
    ([1, 2, 3], 3, "label_map: {1: 0, 2: 1, 3: 2}"),
    ([0, 38, 75], 3, "label_map: {0: CLASS, 38: CLASS, 75: CLASS"),
])
def test_a_label_outside_the_classes_is_told_with_what_to_write(values, classes, remedy):
    label = np.array([values], np.uint8)
    with pytest.raises(DataError) as error:
        label_counts(label, classes, 254, "a.png")
    assert "a.png" in str(error.value) and remedy in str(error.value)


@pytest.mark.parametrize(("values", "classes", "facts"), [
    ([0, 128, 255], 3, ("0, 128, 255", "label_map: {128: 1, 255: 2}")),
    ([0, 128], 2, ("label_map: {128: 1}", "ignore_index: 128", "label_map: {128: 255}")),
])
def test_grey_levels_that_stand_for_classes_are_told_with_the_mapping(values, classes, facts):
    with pytest.raises(DataError) as error:
        label_counts(np.array([values], np.uint8), classes, 255, "a.png")
    for fact in facts:
        assert fact in str(error.value)


def test_labels_are_counted_by_class_and_ignored_ones_last():
    label = np.array([[0, 0, 2, 255]], np.uint8)
    for kind in (np.uint8, np.int32):
        assert label_counts(label.astype(kind), 3, 255, "a").tolist() == [2, 0, 1, 1]
