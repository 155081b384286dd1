# SPDX-License-Identifier: Apache-2.0
"""Codes and features kept on the disk: what was written whole comes back, nothing else does, another's are refused."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os

import numpy as np
import pytest

from beitv2_core.data.view_cache import CODES, FEATURES, IDENTITY, ViewCache
from beitv2_core.errors import ConfigError, DataError, ShapeError


def cache(folder, rows=10, patches=6, num_codes=8192, **identity):
    return ViewCache.of_codes(folder, {"tokenizer": "abc", "seed": 0, **identity}, rows=rows, patches=patches,
                              num_codes=num_codes)


def some(rows, patches=6, num_codes=8192):
    return np.random.RandomState(0).randint(0, num_codes, (len(rows), patches))


@pytest.mark.parametrize(("num_codes", "size"), [(256, 1), (257, 2), (8192, 2), (65537, 4)])
def test_codes_come_back_also_to_the_next_run_and_take_few_bytes(tmp_path, num_codes, size):
    rows = np.array([7, 2, 9])
    codes = some(rows, num_codes=num_codes)
    codes[0, 0] = num_codes - 1
    first = cache(tmp_path, num_codes=num_codes)
    assert not first.read(rows)[1].any()
    first.write(rows, codes)
    for opened in (first, cache(tmp_path, num_codes=num_codes)):
        found, there = opened.read(rows)
        assert there.all() and np.array_equal(found, codes) and found.dtype == np.int64
        assert opened.read(np.arange(10))[1].tolist() == [i in rows for i in range(10)]
    assert first.bytes_per_view == 6 * size + 4 and (tmp_path / CODES.file).stat().st_size == 10 * first.bytes_per_view


def test_the_share_of_views_that_were_there_is_counted_anew_each_time(tmp_path):
    one = cache(tmp_path)
    one.write(np.array([1]), some([1]))
    one.read(np.array([1, 2, 3, 4]))
    assert one.share_read() == 0.25 and one.share_read() == 0.0


@pytest.mark.parametrize("byte", range(16))
def test_a_torn_or_damaged_row_does_not_count_and_its_neighbours_do(tmp_path, byte):
    cache(tmp_path).write(np.arange(10), some(range(10)))
    with open(tmp_path / CODES.file, "r+b") as file:
        file.seek(4 * 16 + byte)
        old = file.read(1)[0]
        file.seek(4 * 16 + byte)
        file.write(bytes([old ^ 0x40]))
    assert cache(tmp_path).read(np.arange(10))[1].tolist() == [i != 4 for i in range(10)]


def test_a_row_whose_write_stopped_half_way_does_not_count(tmp_path):
    one = cache(tmp_path)
    one.write(np.array([3]), some([3]))
    whole = (tmp_path / CODES.file).read_bytes()
    for written in range(1, 16):
        (tmp_path / CODES.file).write_bytes(whole[:3 * 16 + written] + bytes(len(whole) - 3 * 16 - written))
        assert not cache(tmp_path).read(np.array([3]))[1][0] or whole[3 * 16 + written:4 * 16].strip(b"\0") == b""


def test_a_row_in_anothers_place_does_not_count(tmp_path):
    cache(tmp_path).write(np.array([1]), some([1]))
    content = bytearray((tmp_path / CODES.file).read_bytes())
    content[2 * 16:3 * 16] = content[1 * 16:2 * 16]
    (tmp_path / CODES.file).write_bytes(content)
    assert cache(tmp_path).read(np.array([1, 2]))[1].tolist() == [True, False]


def test_codes_of_another_maker_are_refused_with_what_differs(tmp_path):
    cache(tmp_path, tokenizer="abc", views=2)
    cache(tmp_path, tokenizer="abc", views=2)
    with pytest.raises(ConfigError, match=r"tokenizer: 'abc' -> 'xyz'; views: 2 -> 3.*another folder"):
        cache(tmp_path, tokenizer="xyz", views=3)
    with pytest.raises(ConfigError, match="rows: 10 -> 11"):
        cache(tmp_path, rows=11, views=2)
    (tmp_path / IDENTITY).write_text("{")
    with pytest.raises(ConfigError, match="identity.json cannot be read"):
        cache(tmp_path, views=2)


def test_codes_of_another_precision_or_runtime_are_refused(tmp_path):
    cache(tmp_path, precision="f32", runtime="paddle").write(np.array([3]), some([3]))
    with pytest.raises(ConfigError, match=r"made otherwise \(precision: 'f32' -> 'bf16'\)"):
        cache(tmp_path, precision="bf16", runtime="paddle")
    with pytest.raises(ConfigError, match=r"made otherwise \(runtime: 'paddle' -> 'openvino'\)"):
        cache(tmp_path, precision="f32", runtime="openvino")


@pytest.mark.parametrize(("amp", "precision"), [("off", "f32"), ("bf16", "bf16")])
def test_codes_of_version_0_2_go_on_in_the_precision_they_were_made_in(tmp_path, amp, precision):
    cache(tmp_path, precision=precision, runtime="paddle").write(np.array([3]), some([3]))
    known = json.loads((tmp_path / IDENTITY).read_text())
    del known["precision"], known["runtime"]
    (tmp_path / IDENTITY).write_text(json.dumps({**known, "amp": amp}))
    assert cache(tmp_path, precision=precision, runtime="paddle").read(np.array([3]))[1].all()
    with pytest.raises(ConfigError, match=f"precision: '{precision}' -> 'fp16'"):
        cache(tmp_path, precision="fp16", runtime="paddle")


def test_a_full_disk_is_an_error_that_says_how_much_is_needed(tmp_path, monkeypatch):
    one = cache(tmp_path, rows=1000)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left on device.*take 0.0 MB there. Free space"):
        one.write(np.array([1]), some([1]))
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: 3)
    with pytest.raises(DataError, match="No space left on device"):
        one.write(np.array([1]), some([1]))
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="tokenizer.cache.path: .*file"):
        cache(tmp_path / "file" / "below")


def fill(folder, start):
    one = cache(folder, rows=400)
    for row in range(start, 400, 4):
        one.write(np.array([row]), some([row]) + row)


def test_several_processes_fill_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(tmp_path, start)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    codes, there = cache(tmp_path, rows=400).read(np.arange(400))
    assert there.all() and np.array_equal(codes, np.concatenate([some([row]) + row for row in range(400)]) % 2**16)


def features(folder, **options):
    return ViewCache.of_features(folder, {"teacher": "abc"}, rows=10, patches=6, width=5, **options)


def test_features_come_back_bit_for_bit_and_are_computed_once(tmp_path):
    rows, values = np.array([7, 2, 9]), np.random.RandomState(0).randn(3, 6, 5).astype(np.float32)
    values[0, 0] = [0.0, -0.0, np.inf, np.nan, 1e-45]
    calls = []
    for _ in range(2):
        got = features(tmp_path).read_or_compute(rows, rows, lambda images: calls.append(0) or values)
        assert got.tobytes() == values.tobytes() and got.dtype == np.float32
    assert len(calls) == 1 and (tmp_path / FEATURES.file).stat().st_size == 10 * (6 * 5 * 4 + 4)


@pytest.mark.parametrize(("whole_batches", "computed"), [(False, 2), (True, 3)])
def test_what_was_kept_is_not_replaced_where_a_neighbour_is_missing(tmp_path, whole_batches, computed):
    one, counts = features(tmp_path), []
    kept = np.full((1, 6, 5), 3.0, np.float32)
    one.write(np.array([2]), kept)
    fresh = np.arange(90, dtype=np.float32).reshape(3, 6, 5)
    got = one.read_or_compute(np.array([1, 2, 3]), fresh, lambda images: counts.append(len(images)) or images,
                              whole_batches=whole_batches)
    assert np.array_equal(got, np.concatenate([fresh[:1], kept, fresh[2:]])) and counts == [computed]


def test_features_kept_as_float16_are_those_of_float16_from_the_first_time_on(tmp_path):
    values = np.random.RandomState(0).randn(2, 6, 5).astype(np.float32)
    first, again = (features(tmp_path, dtype="float16").read_or_compute(np.arange(2), values, lambda images: images)
                    for _ in range(2))
    assert np.array_equal(first, values.astype(np.float16).astype(np.float32)) and np.array_equal(first, again)
    with pytest.raises(ConfigError, match="teacher.cache.path: .*dtype: 'float16' -> 'float32'"):
        features(tmp_path)


@pytest.mark.parametrize("rows", [None, np.zeros(0, np.int64), np.arange(3)])
def test_views_without_a_number_each_are_refused(tmp_path, rows):
    with pytest.raises(ShapeError, match="teacher.cache: 2 views came with the numbers of"):
        features(tmp_path).read_or_compute(rows, np.zeros((2, 1)), lambda images: images)


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, "3"])
def test_an_identity_that_is_no_dictionary_is_named(tmp_path, text):
    (tmp_path / IDENTITY).write_text(text)
    with pytest.raises(ConfigError, match="identity.json cannot be read"):
        ViewCache.of_codes(tmp_path, {}, rows=2, patches=3, num_codes=4)
