# SPDX-License-Identifier: Apache-2.0
"""The one loop of every measurement."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data import DigitScenes, ImageFiles, ImageFolder, eval_batches, spread
from beitv2_core.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 5 images, sorted by class, each of its own grey."""
    root = tmp_path_factory.mktemp("sorted")
    for number in range(15):
        path = root / "abc"[number // 5] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 36), (10 * number, 0, 0)).save(path)
    return root


def test_every_image_comes_once_in_order_with_label_and_path(folder):
    dataset = ImageFolder(folder, with_classes=True)
    batches = list(eval_batches(dataset, 32, batch_size=4))
    assert [len(batch.images) for batch in batches] == [4, 4, 4, 3]
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert sum((batch.paths for batch in batches), []) == [str(folder / path) for path in dataset.paths]
    images = np.concatenate([batch.images for batch in batches])
    assert images.dtype == np.float32 and images.shape == (15, 3, 32, 32)
    np.testing.assert_array_equal(images[:, 0, 5, 5], np.float32(10 * np.arange(15)) / 255)


def test_worker_processes_give_the_same_batches_to_the_bit(folder):
    dataset = ImageFolder(folder, with_classes=True)
    alone = list(eval_batches(dataset, 32, batch_size=4, limit=11))
    together = list(eval_batches(dataset, 32, batch_size=4, limit=11, num_workers=2))
    assert len(alone) == len(together) == 3
    for one, other in zip(alone, together):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.paths == other.paths and one.labels.dtype == other.labels.dtype == np.int64


def test_a_limit_takes_images_of_every_class_of_a_sorted_folder(folder):
    dataset = ImageFolder(folder, with_classes=True)
    (batch,) = eval_batches(dataset, 32, limit=6)
    assert batch.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_part_of_the_numbers_can_be_asked_for_and_an_empty_part_gives_no_batch(folder):
    dataset = ImageFolder(folder, with_classes=True)
    assert np.concatenate([b.labels for b in eval_batches(dataset, 32, numbers=range(1, 15, 5))]).tolist() == [0, 1, 2]
    assert list(eval_batches(dataset, 32, numbers=[])) == []


def test_images_without_labels_are_minus_one(folder):
    (batch,) = eval_batches(ImageFolder(folder), 32, limit=2)
    assert batch.labels.tolist() == [-1, -1]


def test_spread_images_reach_from_the_first_to_the_last():
    scenes = DigitScenes("test", size=12, image_size=32)
    chosen = spread(scenes, 3)
    assert len(chosen) == 3 and chosen.classes == scenes.classes
    for index, number in enumerate((0, 5, 11)):
        assert chosen.load(index).image.tobytes() == scenes.load(number).image.tobytes()
    assert spread(scenes, 50) is scenes and spread(scenes, None) is scenes


def test_unreadable_files_met_in_a_chosen_part_count_for_the_whole(folder, tmp_path):
    for number in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes(b"?")
    dataset = ImageFolder(tmp_path, max_corrupt=0.2)
    for workers in (0, 2):
        assert len(list(eval_batches(dataset, 8, limit=3, batch_size=1, num_workers=workers))) == 3
        assert list(dataset.corrupt.found) == [str(tmp_path / "5.png")]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_named_file_that_cannot_be_read_is_an_error_naming_it(tmp_path, workers):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    files = ImageFiles([str(tmp_path / "a.png"), str(tmp_path / "b.heic")])
    with pytest.raises(DataError) as caught:
        list(eval_batches(files, 8, batch_size=1, num_workers=workers))
    assert str(tmp_path / "b.heic") in str(caught.value) and "HEIC" in str(caught.value)
    assert "Convert" in str(caught.value) and "pair or remove" not in str(caught.value)
