"""Every figure is a readable PNG of the right kind, and wrong shapes are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from beitv2_core.errors import DataError, ShapeError
from beitv2_core.viz.attention import attention_maps
from beitv2_core.viz.codebook import code_gallery, code_histogram, code_map, perplexity, position_histogram
from beitv2_core.viz.curves import training_curves
from beitv2_core.viz.masks import mask_examples

RNG = np.random.RandomState(0)
IMAGES = RNG.rand(3, 3, 32, 32).astype(np.float32)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def write_curves(path):
    metrics = path.with_suffix(".jsonl")
    metrics.write_text("".join(json.dumps({"step": s, "loss": 1 / s, "acc_mim": s / 9, "lr": 1e-3}) + "\n"
                               for s in range(1, 9)))
    training_curves(metrics, path)


FIGURES = {
    "histogram": lambda path: code_histogram(RNG.randint(0, 50, 64), path),
    "positions": lambda path: position_histogram(RNG.randint(0, 9, (16, 64)), (4, 4), path),
    "gallery": lambda path: code_gallery({c: [RNG.randint(0, 255, (8, 8, 3), np.uint8)] * 3 for c in range(6)},
                                         np.arange(8), path),
    "map": lambda path: code_map(IMAGES, RNG.randint(0, 64, (3, 4, 4)), path, num_codes=64),
    "attention": lambda path: attention_maps(IMAGES, RNG.rand(3, 2, 4, 4), path),
    "masks": lambda path: mask_examples(IMAGES, RNG.rand(3, 4, 4) > 0.5, path),
    "curves": write_curves,
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_a_png_with_something_on_it_in_a_folder_it_creates(tmp_path, name):
    path = tmp_path / ("" if name == "curves" else "new") / f"{name}.png"
    FIGURES[name](path)
    assert pixels(path).std() > 5
    assert [p.name for p in path.parent.glob(".*")] == []  # no temporary file left


def test_hidden_patches_are_grey_in_the_mask_figure(tmp_path):
    black = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    mask_examples(black, np.ones((1, 4, 4), dtype=bool), tmp_path / "all.png")
    mask_examples(black, np.zeros((1, 4, 4), dtype=bool), tmp_path / "none.png")
    grey = [(pixels(tmp_path / name) == 190).all(-1).sum() for name in ("all.png", "none.png")]
    assert grey[0] > 1000 and grey[1] == 0


def test_perplexity_counts_equally_used_codes():
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)


@pytest.mark.parametrize("call, words", [
    (lambda p: code_histogram(np.zeros((2, 2)), p), "one number per code"),
    (lambda p: code_map(IMAGES, np.zeros((2, 4, 4), int), p), r"expected \(3, rows, columns\)"),
    (lambda p: mask_examples(IMAGES, np.zeros((3, 16), bool), p), r"expected \(3, rows, columns\)"),
    (lambda p: attention_maps(IMAGES, np.zeros((3, 17, 17)), p), "heads, rows, columns"),
    (lambda p: position_histogram(np.zeros((9, 4)), (4, 4), p), "16 positions"),
    (lambda p: mask_examples(np.zeros((3, 32, 32)), np.zeros((3, 4, 4), bool), p), "expected uint8"),
])
def test_wrong_shapes_are_named_and_nothing_is_written(tmp_path, call, words):
    with pytest.raises(ShapeError, match=words):
        call(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_empty_metrics_are_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="no metrics yet"):
        training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
