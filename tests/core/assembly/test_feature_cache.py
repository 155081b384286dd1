# SPDX-License-Identifier: Apache-2.0
"""A tokenizer trained with the teacher's features kept on the disk: the same weights, the teacher at rest."""

from __future__ import annotations

import pickle

import numpy as np
import paddle
import pytest

from beitv2_core.assembly import build_training
from beitv2_core.assembly.dry_run import run_one_step
from beitv2_core.assembly.training import build_parts
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import parse_config
from beitv2_core.data.view_cache import FEATURES
from beitv2_core.errors import ConfigError
from beitv2_core.teachers.dino import DINOVisionTransformer
from beitv2_core.weights.keymaps.dino import to_dino

TRUNK = {"width": 24, "depth": 1, "num_heads": 2}


def teacher_file(path, seed=0):
    paddle.seed(seed)
    vit = DINOVisionTransformer(image_size=16, patch_size=4, width=12, depth=2, num_heads=3)
    path.write_bytes(pickle.dumps(to_dino({name: value.numpy() for name, value in vit.state_dict().items()})))
    return str(path)


@pytest.fixture
def settings(tmp_path):
    weights = teacher_file(tmp_path / "teacher.pth")

    def settings(output, folder="features", steps=14, data=None, seed=0, cache=None, **teacher):
        kept = {"path": str(tmp_path / folder), "views": 2, **(cache or {})}
        return parse_config({
            "kind": "tokenizer", "output": str(tmp_path / output), "seed": seed,
            "data": {"dataset": "digit_scenes", "size": 10, "image_size": 16, **(data or {})},
            "encoder": {**TRUNK, "patch_size": 4}, "decoder": TRUNK, "quantizer": {"num_codes": 20, "code_dim": 8},
            "teacher": {"name": "dino", "weights": weights, "options": {"num_heads": 3},
                        "cache": kept if folder else None, **teacher},
            "optim": {"lr": 1e-3, "steps": steps}, "train": {"batch_size": 4, "save_every": 4, "log_every": 7}})

    return settings


def weights_of(config):
    store = CheckpointStore(f"{config.output}/checkpoints")
    return store.load(store.latest()).weights


def assert_same(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_kept_features_are_those_of_the_teacher_bit_for_bit(settings):
    parts = build_parts(settings("run"))
    batches = [batch for _, batch in zip(range(14), parts.loader)]
    for batch in batches:
        parts.task.loss(batch, step=0)
    for batch in batches:
        kept, there = parts.task.cache.read(batch.rows)
        assert there.all()
        for image, features in zip(batch.images, kept):
            np.testing.assert_array_equal(features, parts.task.teacher(paddle.to_tensor(image[None])).numpy()[0])


def test_a_full_cache_gives_the_same_weights_and_needs_no_teacher(settings):
    first, again = settings("first"), settings("again")
    assert build_training(first).run()["last"]["features_cached"] < 1
    loop = build_training(again)
    loop.task.teacher.features = lambda images: pytest.fail("the teacher was asked")
    assert loop.run()["last"]["features_cached"] == 1
    assert_same(weights_of(first), weights_of(again))


def test_a_run_with_kept_features_equals_one_that_computes_them(settings):
    hog = {"name": "hog", "weights": None, "options": {}}
    kept, computed = settings("kept", steps=6, **hog), settings("computed", steps=6, **hog)
    build_training(kept).run()
    loop = build_training(computed)
    loop.task.cache = None
    loop.run()
    assert_same(weights_of(kept), weights_of(computed))


def test_epochs_show_their_views_in_turn(settings):
    parts = build_parts(settings("run"))
    seen = {}
    for number, batch in zip(range(8), parts.loader):  # two batches an epoch
        for row, image in zip(batch.rows, batch.images):
            assert row % 2 == number // 2 % 2
            np.testing.assert_array_equal(seen.setdefault(int(row), image), image)
    assert len({image.tobytes() for image in seen.values()}) == len(seen) > 16


def test_a_run_that_is_stopped_ends_as_if_nothing_had_happened_whatever_was_kept(settings):
    whole, parted = settings("whole", "one"), settings("parted", "two")
    build_training(whole).run()
    build_training(parted).run(stop_after=6)
    store = CheckpointStore(f"{parted.output}/checkpoints")
    store.latest().rename(store.latest().with_name("lost"))  # a kill loses steps but not the features they kept
    with open(f"{parted.teacher.cache.path}/{FEATURES.file}", "r+b") as file:  # one of which was torn
        file.seek(5)
        file.write(b"\xff\xff")
    build_training(parted).run("auto")
    assert_same(weights_of(whole), weights_of(parted))


def test_features_made_otherwise_are_refused_and_named(settings, tmp_path):
    build_parts(settings("run"))
    build_parts(settings("elsewhere", data={"num_workers": 1}))
    for more, match in (({"seed": 1}, "seed: 0 -> 1"), ({"cache": {"views": 3}}, "views: 2 -> 3"),
                        ({"cache": {"dtype": "float16"}}, "dtype"), ({"data": {"size": 12}}, "images: 10 -> 12"),
                        ({"data": {"interpolation": "bilinear"}}, "interpolation: 'bicubic' -> 'bilinear'"),
                        ({"name": "hog", "weights": None, "options": {}}, "teacher: 'dino' -> 'hog'"),
                        ({"weights": teacher_file(tmp_path / "other.pth", seed=1)}, "weights: ")):
        with pytest.raises(ConfigError, match=f"teacher.cache.path: .*features made otherwise .*{match}"):
            build_parts(settings("run", **more))


def test_a_network_that_is_there_as_a_graph_teaches_and_another_graph_is_another_teacher(settings, tmp_path):
    def graph(name, seed):
        paddle.seed(seed)
        layer = paddle.nn.Conv2D(3, 6, 4, 4)
        paddle.jit.save(layer, str(tmp_path / name), [paddle.static.InputSpec([None, 3, 16, 16], "float32", "images")])
        return {"name": "file", "weights": str(tmp_path / name), "options": {"mean": 0.5, "std": 0.5, "input_size": 16}}

    first = graph("first", 0)
    last = build_training(settings("run", steps=6, **first)).run()["last"]
    assert last["rec_loss"] < 1.2 and last["features_cached"] > 0
    build_parts(settings("again", **first))
    with pytest.raises(ConfigError, match="features made otherwise .file: "):
        build_parts(settings("other", **graph("other", 1)))


def test_a_dry_run_keeps_no_features(settings, tmp_path):
    run_one_step(settings("run"))
    assert not (tmp_path / "features").exists()
