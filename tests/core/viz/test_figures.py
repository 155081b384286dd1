# SPDX-License-Identifier: Apache-2.0
"""Every figure is a readable PNG that is whole or absent, and wrong shapes are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.axis import Axis, Tick
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from beitv2_core.errors import ShapeError
from beitv2_core.viz.attention import attention_maps
from beitv2_core.viz.canvas import Canvas
from beitv2_core.viz.codebook import code_gallery, code_histogram, code_map
from beitv2_core.viz.curves import training_curves
from beitv2_core.viz.masks import mask_examples

RNG = np.random.RandomState(0)
IMAGES = RNG.rand(3, 3, 32, 32).astype(np.float32)
BYTES = RNG.randint(0, 256, (2, 32, 48, 3)).astype(np.uint8)
BOOK = RNG.randn(64, 16).astype(np.float32)
PATCH = RNG.randint(0, 256, (8, 8, 3)).astype(np.uint8)


def write_curves(path):
    metrics = path.parent.parent / "metrics.jsonl"
    metrics.write_text("".join(json.dumps({"step": s, "loss": 1 / s, "acc_mim": s / 9, "lr": 1e-3}) + "\n"
                               for s in range(1, 9)))
    training_curves(metrics, path)


FIGURES = {
    "histogram": lambda path: code_histogram(RNG.randint(0, 50, 64), path),
    "histogram_steep": lambda path: code_histogram(np.r_[90000, np.arange(50), np.zeros(20, int)], path, title="test"),
    "histogram_unused": lambda path: code_histogram(np.zeros(8, int), path),
    "histogram_one_code": lambda path: code_histogram(np.array([3]), path),
    "gallery": lambda path: code_gallery({c: [PATCH] * (c + 1) for c in range(6)}, np.arange(8), path),
    "gallery_one_code": lambda path: code_gallery({3: [PATCH]}, np.arange(8), path),
    "gallery_row_without_patches": lambda path: code_gallery({0: [], 3: [PATCH]}, np.arange(8), path),
    "map": lambda path: code_map(IMAGES, RNG.randint(0, 64, (3, 4, 4)), BOOK, path),
    "map_not_square": lambda path: code_map(BYTES, RNG.randint(0, 64, (2, 2, 3)), BOOK, path),
    "attention": lambda path: attention_maps(IMAGES, RNG.rand(3, 2, 4, 4), path),
    "attention_one_small_image": lambda path: attention_maps(IMAGES[:1], RNG.rand(1, 3, 4, 4), path, block=2),
    "attention_many_heads": lambda path: attention_maps(BYTES, RNG.rand(2, 12, 2, 3), path),
    "masks": lambda path: mask_examples(IMAGES, RNG.rand(3, 4, 4) > 0.5, path),
    "masks_not_square": lambda path: mask_examples(BYTES, RNG.rand(2, 4, 3) > 0.5, path),
    "curves": write_curves,
}


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_a_png_with_something_on_it_in_a_folder_it_creates(tmp_path, name):
    path = tmp_path / "new" / f"{name}.png"
    if name == "curves":
        path.parent.mkdir()
    FIGURES[name](path)
    assert pixels(path).std() > 5
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file left


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_a_figure_is_cut_by_its_border(tmp_path, monkeypatch, name):
    (tmp_path / "new").mkdir()
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: (drawn.append(figure),
                                                                             save(figure, *args, **options)))
    FIGURES[name](tmp_path / "new" / "x.png")
    figure = drawn[0]
    ticks = [tick for axis in figure.findobj(Axis) for tick in axis.findobj(Tick)]  # some lie outside and are not drawn
    labels = {id(label) for tick in ticks for label in tick.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and id(text) not in labels]
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    cut = {text: box for text, box in boxes.items() if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1
           or box.y0 < -1 or box.y1 > figure.bbox.y1 + 1}
    assert boxes and not cut


def test_drawing_again_gives_the_same_bytes(tmp_path):
    codes = np.arange(48).reshape(3, 4, 4)
    for name in ("a.png", "b.png"):
        code_map(IMAGES, codes, BOOK, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_error_while_drawing_leaves_the_old_figure(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        with Canvas(path, 2, 2):
            raise RuntimeError
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_an_error_while_writing_leaves_the_old_figure_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def half_written(figure, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        code_histogram(np.arange(4), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("call, words", [
    (lambda p: code_histogram(np.zeros((2, 2)), p), r"shape \(2, 2\).*one number per code"),
    (lambda p: code_histogram(np.array([1, -1]), p), "none negative"),
    (lambda p: code_map(IMAGES, np.zeros((2, 4, 4), int), BOOK, p), r"shape \(2, 4, 4\).*\(3, rows, columns\)"),
    (lambda p: code_map(IMAGES, np.zeros((3, 4, 4)), BOOK, p), "float64; expected integers"),
    (lambda p: code_map(IMAGES, np.full((3, 4, 4), 64), BOOK, p), r"from 64 to 64; expected 0 \.\. 63"),
    (lambda p: code_map(IMAGES, np.full((3, 4, 4), -1), BOOK, p), r"from -1 to -1; expected 0 \.\. 63"),
    (lambda p: mask_examples(IMAGES, np.zeros((3, 16), bool), p), r"expected \(3, rows, columns\)"),
    (lambda p: mask_examples(IMAGES, np.zeros((3, 5, 4), bool), p), "5 x 4 patches does not divide.* 32 x 32 pixels"),
    (lambda p: attention_maps(IMAGES, np.zeros((3, 17, 17)), p), "heads, rows, columns"),
    (lambda p: attention_maps(IMAGES, np.full((3, 2, 4, 4), np.nan), p), "non-finite"),
    (lambda p: mask_examples(np.zeros((3, 32, 32)), np.zeros((3, 4, 4), bool), p), r"\(3, 32, 32\).*expected uint8"),
    (lambda p: mask_examples(IMAGES[:0], np.zeros((0, 4, 4), bool), p), "at least one"),
    (lambda p: code_gallery({}, np.arange(4), p), "no code has a patch"),
    (lambda p: code_gallery({4: [PATCH]}, np.arange(4), p), r"code 4 has patches, counts know codes 0 \.\. 3"),
    (lambda p: code_gallery({1: [PATCH, PATCH[:4]]}, np.arange(4), p), "all of one size"),
    (lambda p: code_gallery({1: [PATCH / 255]}, np.arange(4), p), "float64.*expected uint8"),
])
def test_wrong_shapes_are_named_and_nothing_is_written(tmp_path, call, words):
    with pytest.raises(ShapeError, match=words):
        call(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_names_in_any_writing_are_drawn_without_a_warning_about_glyphs(tmp_path, recwarn):
    names = ["猫", "Katze ä", "\udccaé\udca8", "😀"]
    with Canvas(tmp_path / "a.png", 4, 3, title=names[0]) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], label=names[2])
        axes.set_xticks(range(4), names)
        axes.set_title(names[3])
        axes.legend()
    assert pixels(tmp_path / "a.png").std() > 0
    assert not [str(one.message) for one in recwarn if "Glyph" in str(one.message)]


def test_a_letter_that_no_font_has_is_shown_as_its_number(monkeypatch):
    from beitv2_core.viz import fonts

    monkeypatch.setattr(fonts, "_letters", lambda: frozenset("Katzeä"))
    assert fonts.readable("Kä猫 \udcca") == "KäU+732B \\xca"


def test_white_patches_are_seen_on_the_white_ground_of_the_gallery(tmp_path):
    white = np.full((8, 8, 3), 255, np.uint8)
    shades = []
    for count in (0, 4):
        code_gallery({0: [white] * count, 1: [white] * 4}, np.array([3, 1]), tmp_path / "gallery.png")
        left = pixels(tmp_path / "gallery.png")[60:, 100:300]
        shades.append((left.max(-1) < 215).sum())
    assert shades[1] > shades[0] + 100
