# SPDX-License-Identifier: Apache-2.0
"""Pretraining with codes kept on the disk: the same codes, the same weights after any stop, the tokenizer at rest."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import paddle
import pytest
from PIL import Image

from beitv2_core.assembly import build_training, load_tokenizer
from beitv2_core.assembly.dry_run import run_one_step
from beitv2_core.assembly.restore import fingerprint, save_untrained
from beitv2_core.assembly.training import build_parts
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import parse_config
from beitv2_core.data import ImageFolder, ShardSet
from beitv2_core.data.sources.shard_writer import write_shards
from beitv2_core.data.view_cache import CODES
from beitv2_core.errors import ConfigError

TRUNK = {"width": 24, "depth": 1, "num_heads": 2}
DATA = {"dataset": "digit_scenes", "size": 22, "image_size": 16}


@pytest.fixture(scope="module")
def tokenizer_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    config = parse_config({
        "kind": "tokenizer", "output": str(folder), "data": DATA, "encoder": {**TRUNK, "patch_size": 4},
        "decoder": TRUNK, "quantizer": {"num_codes": 40, "code_dim": 8}, "teacher": {"name": "none"},
        "optim": {"lr": 1e-3, "steps": 1}, "train": {"batch_size": 4}})
    save_untrained(config, teacher_width=5)
    return folder


@pytest.fixture
def settings(tokenizer_run, tmp_path):
    def settings(output, *, cache=None, steps=16, data=None, seed=0, **tokenizer):
        return parse_config({
            "kind": "pretrain", "output": str(tmp_path / output), "data": {**DATA, "color_jitter": 0.4, **(data or {})},
            "model": {**TRUNK, "depth": 2, "patch_size": 4, "early_layers": 1, "drop_path": 0.2}, "seed": seed,
            "tokenizer": {"weights": str(tokenizer_run), "cache": cache, **tokenizer},
            "mask": {"num_masked": 6, "min_block": 2}, "optim": {"lr": 1e-3, "steps": steps},
            "train": {"batch_size": 4, "save_every": 4, "log_every": 4}})

    def with_cache(output, folder="codes", views=2, **more):
        return settings(output, cache={"path": str(tmp_path / folder), "views": views}, **more)

    settings.cached = with_cache
    return settings


def weights(config):
    store = CheckpointStore(f"{config.output}/checkpoints")
    return store.load(store.latest()).weights


def assert_same(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_full_cache_gives_the_same_weights_without_the_tokenizer(settings):
    first = settings.cached("first", steps=60)  # 5 batches of 4 among 22 images: some views come late
    build_training(first).run()
    again = settings.cached("again", steps=60)
    loop = build_training(again)
    there = loop.task.cache.read(np.arange(44))[1]
    assert there.all()

    def fail(images):
        raise AssertionError("the tokenizer ran")

    loop.task.tokenizer.tokenize = fail
    summary = loop.run()
    assert_same(weights(first), weights(again))
    assert summary["last"]["codes_cached"] == 1.0


def test_the_codes_in_the_cache_are_those_of_the_tokenizer(settings):
    config = settings.cached("run")
    parts = build_parts(config)
    for batch, _ in zip(parts.loader, range(9)):
        parts.task.loss(batch, step=0)
        codes, there = parts.task.cache.read(batch.rows)
        assert there.all()
        np.testing.assert_array_equal(codes, parts.task.tokenizer.tokenize(paddle.to_tensor(batch.token_view)).numpy())


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_run_that_is_stopped_ends_as_if_nothing_had_happened_whatever_is_in_the_cache(settings, batch_size):
    whole = settings.cached("whole", "one", batch_size=batch_size)
    build_training(whole).run()
    parted = settings.cached("parted", "two", batch_size=batch_size)
    build_training(parted).run(stop_after=6)
    # A kill loses steps but not the codes they wrote; one of them was torn.
    store = CheckpointStore(f"{parted.output}/checkpoints")
    newest = store.latest()
    lost = [path for path in newest.parent.iterdir() if path.name == newest.name]
    for path in lost:
        path.rename(path.with_name("lost"))
    with open(f"{parted.tokenizer.cache.path}/{CODES.file}", "r+b") as file:
        file.seek(5)
        file.write(b"\xff\xff")
    build_training(parted).run("auto")
    assert_same(weights(whole), weights(parted))


def test_a_cache_of_other_settings_is_refused_and_named(settings):
    build_parts(settings.cached("run"))
    build_parts(settings.cached("run", data={"num_workers": 1}))
    for more, match in (({"seed": 1}, "seed: 0 -> 1"), ({"views": 3}, "views: 2 -> 3"),
                        ({"data": {"crop_scale": [0.5, 1.0]}}, "crop_scale"),
                        ({"data": {"size": 20}}, "images: 22 -> 20")):
        with pytest.raises(ConfigError, match=match):
            build_parts(settings.cached("run", **more))


def test_codes_of_photographs_that_were_not_turned_are_refused_where_they_are(settings, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    data = {"dataset": "folder", "root": str(tmp_path / "images"), "size": None}
    build_parts(settings.cached("run", data=data))
    with pytest.raises(ConfigError, match="exif_orientation: False -> True"):
        build_parts(settings.cached("run", data={**data, "exif_orientation": True}))


def test_only_encoder_and_codebook_stay_in_memory_for_pretraining(settings, tokenizer_run):
    task = build_parts(settings("run")).task
    names = {name.split(".")[0] for name in task.tokenizer.state_dict()}
    assert names == {"encoder", "encode_task_layer", "quantize"}
    assert not hasattr(task, "teacher")
    whole = load_tokenizer(tokenizer_run)
    images = paddle.rand([3, 3, 16, 16])
    assert np.array_equal(whole.tokenize(images).numpy(), task.tokenizer.tokenize(images).numpy())
    assert fingerprint(whole) != fingerprint(task.tokenizer)


def test_the_tokenizer_has_a_batch_size_of_its_own(settings):
    task = build_parts(settings("run", batch_size=3)).task
    seen, tokenize = [], task.tokenizer.tokenize
    task.tokenizer.tokenize = lambda images: seen.append(images.shape[0]) or tokenize(images)
    images = np.random.RandomState(0).rand(8, 3, 16, 16).astype("float32")
    mask = np.random.RandomState(1).rand(8, 16) < 0.4
    codes = task.masked_codes(images, mask).numpy()
    assert seen == [3, 3, 2]
    np.testing.assert_array_equal(codes, tokenize(paddle.to_tensor(images)).numpy()[mask])


def test_the_tokenizers_precision_is_its_own_and_off_unless_asked_for(settings, monkeypatch):
    asked = []
    monkeypatch.setattr(paddle.amp, "auto_cast",
                        lambda enable=True, **options: asked.append((enable, options)) or nullcontext())
    monkeypatch.setattr("beitv2_core.layers.fast.products._on_gpu", lambda: True)
    images = paddle.rand([1, 3, 16, 16])
    tokenizer = build_parts(settings("run", amp="bf16")).task.tokenizer
    for amp, enabled in (("off", [False]), ("bf16", [True, False])):
        asked.clear()
        tokenizer.tokenize(images, amp=amp)
        assert [enable for enable, _ in asked][:len(enabled)] == enabled and asked[-1][0] is False
        assert amp == "off" or asked[0][1]["dtype"] == "bfloat16"


def test_a_dry_run_writes_no_codes(settings, tmp_path):
    run_one_step(settings.cached("run"))
    assert not (tmp_path / "codes").exists()


def test_pretraining_reads_shards_in_their_own_order_and_keeps_their_codes(settings, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(22):
        Image.fromarray(np.random.RandomState(i).randint(0, 256, (20, 20, 3), dtype=np.uint8)).save(
            tmp_path / "images" / f"{i:02}.png")
    list(write_shards(ImageFolder(tmp_path / "images"), tmp_path / "shards", per_shard=5))
    data = {"dataset": "shards", "root": str(tmp_path / "shards"), "shard_window": 2, "size": None}
    whole, parted = (settings.cached(name, name + "-codes", data=data) for name in ("whole", "parted"))
    loop = build_training(whole)
    assert loop.loader.sampler.order(1).tolist() == ShardSet(tmp_path / "shards", window=2).order(0, 1).tolist()
    loop.run()
    build_training(parted).run(stop_after=7)
    build_training(parted).run("auto")
    assert_same(weights(whole), weights(parted))
