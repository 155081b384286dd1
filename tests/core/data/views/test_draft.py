# SPDX-License-Identifier: Apache-2.0
"""Decoding at reduced scale: the same draws, nearly the same images, and only where the crop allows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data import ImageFolder, Loader, MimTransform, ResumableSampler, SampleRng, TokenizerTransform
from beitv2_core.data.sources.image_file import decode_file
from beitv2_core.data.views.classify_recipe import ClassTrainTransform
from beitv2_core.data.views.transforms import TwoViewCrop, reduced
from beitv2_core.masking import BlockwiseMasking

MASKING = BlockwiseMasking((4, 4), 6, min_block=2)
MAKERS = {
    "pretraining": lambda **more: MimTransform(32, MASKING, **more),
    "fixed views": lambda **more: MimTransform(32, MASKING, token_size=24, views=2, **more),
    "tokenizer": lambda **more: TokenizerTransform(32, **more),
    "fine-tuning": lambda **more: ClassTrainTransform(32, **more),
}


def smooth(width, height, seed):
    ground = np.random.RandomState(seed).randint(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(ground).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i, size in enumerate([(300, 210), (211, 333), (97, 101), (33, 40), (250, 251), (640, 480)]):
        smooth(*size, i).save(root / f"{i}.jpg", quality=95)
    smooth(300, 200, 9).save(root / "9.png")
    return root


def batches(folder, transform, num_workers=0, count=12):
    found = ImageFolder(folder, max_corrupt=1)
    with Loader(found, transform, ResumableSampler(len(found), batch_size=3), num_workers=num_workers) as loader:
        return list(itertools.islice(loader, count))


@pytest.mark.parametrize("name", MAKERS)
def test_masks_order_and_boxes_stay_and_images_hardly_change(folder, name):
    whole, draft = (batches(folder, MAKERS[name](draft=value)) for value in (False, True))
    largest = 0.0
    for one, other in zip(whole, draft):
        assert one.paths == other.paths
        for field in ("mask", "rows", "labels"):
            np.testing.assert_array_equal(getattr(one, field, 0), getattr(other, field, 0))
        views = ("patch_view", "token_view") if hasattr(one, "mask") else ("images",)
        for view in views:
            difference = np.abs(getattr(one, view) - getattr(other, view)).mean((1, 2, 3))
            largest = max(largest, difference.max())
            # A crop from another place, or mirrored wrongly, differs by ten times as much.
            assert difference.max() < (0.03 if name in ("tokenizer",) or view == "token_view" else 0.2), view
    assert largest > 0  # something was decoded smaller


def test_batches_from_smaller_decoding_do_not_depend_on_workers(folder):
    one, other = (batches(folder, MAKERS["pretraining"](draft=True), workers, 6) for workers in (0, 2))
    assert all(np.array_equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_off_by_default_and_then_nothing_is_asked(folder, name):
    transform = MAKERS[name]()
    assert transform.shrink is None
    sample = ImageFolder(folder).load(0)
    assert sample.reduction == 1 and sample.image.size == sample.full_size


@pytest.mark.parametrize(("size", "second", "box", "expected"), [
    (32, None, (0, 0, 31, 400), 1), (32, None, (0, 0, 63, 64), 1), (32, None, (0, 0, 64, 64), 2),
    (32, None, (5, 7, 127, 300), 2), (32, None, (0, 0, 128, 128), 4), (32, None, (0, 0, 9000, 300), 8),
    (16, 32, (0, 0, 127, 128), 2), ((32, 16), None, (0, 0, 128, 64), 4)])
def test_the_largest_reduction_whose_crop_covers_both_views_is_chosen(size, second, box, expected):
    assert TwoViewCrop(size, second).reduction(box) == expected


def test_a_jpeg_is_decoded_smaller_and_other_formats_are_not(folder):
    asked = []

    def shrink(size):
        asked.append(size)
        return 4

    with open(folder / "1.jpg", "rb") as file:
        found = decode_file(file, shrink)
    assert found.image.size == (53, 84) and found.full_size == (211, 333) and found.reduction == 4
    with open(folder / "9.png", "rb") as file:
        assert decode_file(file, shrink) == (smooth(300, 200, 9), (300, 200), 1)
    assert asked == [(211, 333)]


def test_the_place_of_a_box_in_a_smaller_image_is_exact():
    assert reduced((10, 20, 30, 41), 1) == ((10, 20, 30, 41), None)
    assert reduced((10, 20, 30, 41), 4) == ((2, 5, 8, 11), (0.5, 0.0, 5.5, 5.25))


def test_a_replaced_image_is_asked_for_anew(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"?")
    smooth(640, 480, 1).save(tmp_path / "1.jpg")
    transform = TokenizerTransform(32, draft=True)
    folder = ImageFolder(tmp_path, max_corrupt=1)
    asked = []

    def shrink(size):
        asked.append(size)
        return transform.shrink(size, SampleRng.for_sample(0, 0, 0))

    sample = folder.load(0, shrink)
    assert asked == [(640, 480)] and sample.reduction == transform.shrink((640, 480), SampleRng.for_sample(0, 0, 0))
    direct = folder.load(1, shrink)
    assert direct.image.tobytes() == sample.image.tobytes()
