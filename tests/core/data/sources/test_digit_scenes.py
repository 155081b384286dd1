# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle

import numpy as np
import pytest

from beitv2_core.data import DigitScenes
from beitv2_core.data.sources.digit_scenes import load_sources
from beitv2_core.errors import DataError


def test_a_image_depends_on_seed_split_and_index_only():
    first = DigitScenes("train", size=30, seed=1)
    last = DigitScenes("train", size=10, seed=1, cache=False)
    for index in (7, 3, 3, 9):
        a, b = first.load(index), last.load(index)
        assert a.image.tobytes() == b.image.tobytes() and a.label == b.label and (a.mask == b.mask).all()
    others = [DigitScenes("test", size=30, seed=1), DigitScenes("train", size=30, seed=2)]
    assert all(other.load(7).image.tobytes() != first.load(7).image.tobytes() for other in others)
    assert first.load(6).image.tobytes() != first.load(7).image.tobytes()


def test_a_sample_has_the_promised_form():
    sample = DigitScenes("train", size=200, image_size=24).load(123)
    assert sample.image.mode == "RGB" and sample.image.size == (24, 24)
    assert sample.path == "digit_scenes/train/000123"
    assert sample.mask.shape == (24, 24) and sample.mask.dtype == np.uint8
    assert set(np.unique(sample.mask)) == {0, sample.label + 1}


def test_all_ten_classes_occur_and_every_digit_can_be_seen():
    scenes = DigitScenes("test", size=150)
    labels = [scenes.load(index).label for index in range(150)]
    assert set(labels) == set(range(10)) and scenes.classes == [str(digit) for digit in range(10)]
    areas = [(scenes.load(index).mask > 0).mean() for index in range(150)]
    assert min(areas) > 0.02 and max(areas) < 0.6


def test_digits_stand_out_from_their_background():
    scenes = DigitScenes("train", size=100)
    gaps = []
    for index in range(100):
        sample = scenes.load(index)
        pixels = np.asarray(sample.image).astype(float)
        inside, outside = pixels[sample.mask > 0].mean(0), pixels[sample.mask == 0].mean(0)
        gaps.append(np.abs(inside - outside).max())
    assert min(gaps) > 30 and np.mean(gaps) > 80


def test_several_digits_share_a_image_and_the_label_is_the_largest():
    scenes = DigitScenes("train", size=60, image_size=64, digits=(2, 3))
    several = 0
    for index in range(60):
        sample = scenes.load(index)
        counts = np.bincount(sample.mask.reshape(-1), minlength=11)[1:]
        assert sample.label == counts.argmax()
        several += np.count_nonzero(counts) > 1
    assert several > 40


def test_train_and_test_share_no_digit_and_no_photograph_half():
    train, test = load_sources("train"), load_sources("test")
    assert len(train.digits) + len(test.digits) == 1797 and 400 < len(test.digits) < 500
    assert not {d.tobytes() for d in train.digits} & {d.tobytes() for d in test.digits}
    from sklearn.datasets import load_sample_images

    for left, right, whole in zip(train.photographs, test.photographs, load_sample_images().images):
        assert left.width + right.width <= whole.shape[1]
        np.testing.assert_array_equal(np.asarray(left), whole[:, : left.width])
        np.testing.assert_array_equal(np.asarray(right), whole[:, whole.shape[1] - right.width :])


def test_a_pickled_copy_leaves_the_drawn_images_behind_and_draws_the_same():
    scenes = DigitScenes("train", size=50)
    before = scenes.load(4)
    copy = pickle.loads(pickle.dumps(scenes))
    assert len(pickle.dumps(scenes)) < 2000
    assert copy.load(4).image.tobytes() == before.image.tobytes()


def test_changing_a_image_does_not_change_the_data_set():
    scenes = DigitScenes("train", size=5)
    before = scenes.load(0).image.tobytes()
    scenes.load(0).image.paste((0, 0, 0), (0, 0, 32, 32))
    assert scenes.load(0).image.tobytes() == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"split": "val"}, "'val'"),
        ({"size": 0}, "size 0"),
        ({"digits": (2, 1)}, r"\(2, 1\)"),
        ({"digit_scale": (0.5, 2)}, "digit_scale"),
    ],
)
def test_impossible_settings_are_named(options, word):
    with pytest.raises(DataError, match=word):
        DigitScenes(**options)
