# SPDX-License-Identifier: Apache-2.0
"""Images that are held out: the same ones for the same names, spread, and in no training."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beitv2_core.assembly import build_dataset
from beitv2_core.assembly.held_out import held_out
from beitv2_core.config.sections import DataConfig
from beitv2_core.data import ImageFolder, Reading
from beitv2_core.data.sources.held_out import held_out_numbers
from beitv2_core.data.sources.identity import identity
from beitv2_core.data.sources.shard_writer import write_shards
from beitv2_core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(20):
        (folder / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / "ab"[number % 2] / f"{number:02d}.png")
    return folder


def settings(root, **data):
    return DataConfig(**{"dataset": "folder", "root": str(root), "image_size": 16, **data})


def reds(dataset):
    return {dataset.load(i).image.getpixel((0, 0))[0] for i in range(len(dataset))}


def test_the_choice_depends_on_the_names_alone_and_is_spread_over_them():
    names = [f"{group}/{number:04d}" for group in "abcdefgh" for number in range(50)]
    chosen = {names[i] for i in held_out_numbers(names, 40)}
    shuffled = [names[i] for i in np.random.RandomState(0).permutation(len(names))]
    assert {shuffled[i] for i in held_out_numbers(shuffled, 40)} == chosen and len(chosen) == 40
    assert {sum(name[0] == group for name in chosen) for group in "abcdefgh"} == {5}
    steps = np.diff(sorted(names.index(name) for name in chosen))
    assert len(set(steps)) > 3, "a fixed step would meet every n-th camera"


def test_a_name_that_is_listed_twice_is_held_out_twice():
    names = ["a", "b", "a", "c", "b", "a"]
    out = [names[i] for i in held_out_numbers(names, 1)]
    assert len(set(out)) == 1 and len(out) == names.count(out[0])


@pytest.mark.parametrize("dataset", ["folder", "list", "shards"])
def test_every_source_trains_on_the_others_and_tests_on_these(root, tmp_path, dataset):
    data = settings(root, held_out=6)
    if dataset == "list":
        (tmp_path / "list.txt").write_text("".join(f"{n % 2 and 'b' or 'a'}/{n:02d}.png\n" for n in range(20)))
        data = settings(root, held_out=6, list_file=str(tmp_path / "list.txt"))
    if dataset == "shards":
        list(write_shards(ImageFolder(root), tmp_path / "tar", per_shard=7, seed=None))
        data = settings(tmp_path / "tar", dataset="shards", held_out=6)
    train, test = build_dataset(data), build_dataset(data, split="test")
    assert (len(train), len(test)) == (14, 6)
    assert reds(train) | reds(test) == set(range(20)) and not reds(train) & reds(test)
    whole = build_dataset(data.model_copy(update={"held_out": None}))
    assert len({identity(one) for one in (train, test, whole)}) == 3, "a resumed run knows them apart"
    assert reds(whole) == set(range(20))
    if dataset == "shards":
        assert sorted(train.order(0, 0)) == list(range(14))


def test_labels_stay_with_their_images(root):
    plain, labelled = (build_dataset(settings(root, held_out=6), split="test", with_classes=classes)
                       for classes in (False, True))
    assert list(plain.names()) == list(labelled.names())
    assert [labelled.classes[label] for label in labelled.labels] == [name[0] for name in labelled.names()]


def test_a_run_is_measured_on_what_it_left_out_unless_another_stage_saw_it(root):
    ours, whole = settings(root, held_out=6), settings(root)
    ask = {"run": "RUN", "image_size": 16, "size": 100, "reading": Reading()}
    assert len(held_out(None, [ours, ours], **ask)) == 6
    with pytest.raises(ConfigError, match="data.held_out.*another run.*--data FOLDER"):
        held_out(None, [ours, whole], **ask)
    with pytest.raises(ConfigError, match="train with data.held_out"):
        held_out(None, [whole], **ask)


def test_some_images_are_left_to_train_on(root):
    with pytest.raises(DataError, match="data.held_out: 20 of 20 .*at most 19"):
        build_dataset(settings(root, held_out=20))


def test_drawn_images_have_a_test_split_instead():
    with pytest.raises(ValueError, match="digit_scenes does not read it"):
        DataConfig(dataset="digit_scenes", size=8, image_size=32, held_out=2)
