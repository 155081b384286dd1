# SPDX-License-Identifier: Apache-2.0
"""Tar shards: the same images as the folder they were made from, found where they lie, and what is wrong is named."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data import ImageFolder, Loader, MimTransform, ResumableSampler, ShardSet
from beitv2_core.data.sources import shards, tar_index
from beitv2_core.data.sources.shard_writer import write_shards
from beitv2_core.data.sources.shards import expand_braces, find_shards
from beitv2_core.errors import DataError
from beitv2_core.masking import BlockwiseMasking


def image_bytes(value=0, kind="PNG", size=(12, 10)):
    pixels = np.random.RandomState(value).randint(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path, members, form=tarfile.GNU_FORMAT):
    """members: (name, bytes) or a TarInfo without content."""
    with tarfile.open(path, "w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def folder(tmp_path):
    for number in range(23):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    return tmp_path / "images"


def make(folder, out, **options):
    options = {"per_shard": 4, **options}
    with_classes = options.pop("with_classes", False)
    return list(write_shards(ImageFolder(folder, with_classes=with_classes), out, **options))


def contents(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix != ".npz"}


def test_shards_hold_the_images_and_labels_of_the_folder(folder, tmp_path):
    assert make(folder, tmp_path / "out", with_classes=True) == [4, 8, 12, 16, 20, 23]
    found = ShardSet(tmp_path / "out", with_classes=True)
    assert len(found) == 23 and found.classes == ["a", "b"] and len(found.files) == 6
    original = ImageFolder(folder, with_classes=True)
    names = dict(line.split("\t") for line in (tmp_path / "out" / "train.txt").read_text().splitlines())
    where = {original.paths[i]: i for i in range(23)}
    order = [where[names[found.path(i)[len(str(tmp_path / "out")) + 1:]]] for i in range(23)]
    assert sorted(order) == list(range(23)) and order != list(range(23))
    for i, at in enumerate(order):
        one, other = found.load(i), original.load(at)
        assert one.image.tobytes() == other.image.tobytes() and one.label == other.label
        assert one.path == found.path(i)


def test_shards_in_order_give_the_samples_of_the_folder_number_by_number(folder, tmp_path):
    make(folder, tmp_path / "out", seed=None)
    found, original = ShardSet(tmp_path / "out"), ImageFolder(folder)
    assert all(found.load(i).image.tobytes() == original.load(i).image.tobytes() for i in range(23))
    assert found.load(0).label is None


def test_the_same_folder_gives_the_same_bytes_that_any_tar_reader_reads(folder, tmp_path):
    for out in ("one", "two"):
        make(folder, tmp_path / out, with_classes=True)
        for path in folder.rglob("*.png"):
            os.utime(path, (1, 1))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with tarfile.open(tmp_path / "one" / "train-000000.tar") as tar:
        assert tar.getnames()[:2] == ["00000000.png", "00000000.cls"]


def test_shards_are_not_overwritten_unasked_and_old_ones_do_not_stay(folder, tmp_path):
    make(folder, tmp_path / "out")
    with pytest.raises(DataError, match="already holds train-000000.tar"):
        make(folder, tmp_path / "out")
    make(folder, tmp_path / "out", per_shard=20, overwrite=True)
    assert sorted(contents(tmp_path / "out")) == ["train-000000.tar", "train-000001.tar", "train.txt"]


def loader(found, num_workers=0):
    transform = MimTransform(16, BlockwiseMasking((4, 4), 6, min_block=2))
    sampler = ResumableSampler(len(found), batch_size=4, seed=5, order=found.order)
    return Loader(found, transform, sampler, num_workers=num_workers, seed=5)


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stop_in_the_middle_of_an_epoch_changes_no_bit(folder, tmp_path, num_workers):
    make(folder, tmp_path / "out")
    whole = list(itertools.islice(loader(ShardSet(tmp_path / "out", window=2)), 12))
    with loader(ShardSet(tmp_path / "out", window=2), num_workers) as first:
        begun = list(itertools.islice(first, 7))
        state = json.loads(json.dumps(first.state()))
    with loader(ShardSet(tmp_path / "out", window=2), num_workers) as second:
        second.load_state(state)
        assert same(begun + list(itertools.islice(second, 5)), whole)


def test_a_process_killed_in_the_middle_leaves_shards_that_continue(folder, tmp_path):
    make(folder, tmp_path / "out")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from beitv2_core.data import *\n"
        "found = ShardSet(sys.argv[1], window=2)\n"
        "sampler = ResumableSampler(len(found), batch_size=4, seed=5, order=found.order)\n"
        "for number, batch in enumerate(Loader(found, TokenizerTransform(8), sampler, seed=5)):\n"
        "    print(sampler.epoch, sampler.batch, *batch.paths, flush=True)\n"
        "    time.sleep(0.02 if number < 3 else 60)\n")
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline().split() for _ in range(3)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = ShardSet(tmp_path / "out", window=2)
    again = list(itertools.islice(loader(found), 5))
    assert [line[2:] for line in lines] == [batch.paths for batch in again[:3]]
    other = loader(ShardSet(tmp_path / "out", window=2))
    other.load_state({**other.state(), "epoch": int(lines[2][0]), "picture": 4 * int(lines[2][1])})
    assert same(list(itertools.islice(other, 2)), again[3:])


def test_an_epoch_reads_every_image_once_and_stays_within_a_window_of_files(folder, tmp_path):
    make(folder, tmp_path / "out")
    found = ShardSet(tmp_path / "out", window=2)
    orders = [found.order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(found.order(0, 1), pickle.loads(pickle.dumps(found)).order(0, 1))
    files = [os.path.dirname(found.path(int(i))) for i in orders[0]]
    for start in (0, 8, 16):  # one of the six files is shorter: windows end at 8 and 16, or one earlier
        assert len(set(files[start:start + 7])) <= 3
    assert len(set(files)) == 6


def test_an_index_is_made_once_and_anew_when_the_tar_file_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [("x.png", image_bytes(1)), ("x.cls", b"3")])
    calls = []
    scan = tar_index.scan_tar
    monkeypatch.setattr(tar_index, "scan_tar", lambda path: calls.append(path) or scan(path))
    for _ in range(2):
        assert ShardSet(path).load(0).image.size == (12, 10)
    assert len(calls) == 1 and (tmp_path / "a.tar.index.npz").exists()
    write_tar(path, [("x.png", image_bytes(1, size=(9, 9))), ("y.png", image_bytes(2))])
    assert len(ShardSet(path)) == 2 and len(calls) == 2
    (tmp_path / "a.tar.index.npz").write_bytes(b"torn")
    assert len(ShardSet(path)) == 2 and len(calls) == 3


def test_an_index_beside_shards_that_cannot_be_written_to_goes_to_the_cache(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [("x.png", image_bytes(1))])
    monkeypatch.setenv("BEITV2_CACHE", str(tmp_path / "cache"))
    save = tar_index._save

    def refuse(place, *rest):
        if place.parent == tmp_path:
            raise PermissionError("read-only")
        save(place, *rest)

    monkeypatch.setattr(tar_index, "_save", refuse)
    ShardSet(path)
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 1
    monkeypatch.setattr(tar_index, "scan_tar", lambda path: pytest.fail("it was kept"))
    assert len(ShardSet(path)) == 1


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_kind_of_tar_and_long_names_are_read(tmp_path, form):
    name = "d" * 90 + "/" + "ä" * 30 + ".JPG"
    path = write_tar(tmp_path / "a.tar", [("d/", b""), (name, image_bytes(4, "JPEG")), ("d/.hidden.png", b"?")], form)
    found = ShardSet(path)
    assert len(found) == 1 and found.load(0).path == f"{path}/{name}"


def test_labels_come_from_cls_or_json_and_missing_or_odd_ones_are_named(tmp_path):
    image = image_bytes(1)
    write_tar(tmp_path / "a.tar", [("x.png", image), ("x.cls", b"2\n"), ("x.json", b'{"label": 7}'),
                                   ("y.png", image), ("y.json", b'{"label": 0, "more": 1}'),
                                   ("z.png", image), ("z.json", b'{"cls": 1}')])
    found = ShardSet(tmp_path, with_classes=True)
    assert [found.load(i).label for i in range(3)] == [2, 0, 1] and found.classes == ["0", "1", "2"]
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"x.png: label 2, but .*classes.txt names 2 classes"):
        ShardSet(tmp_path, with_classes=True)
    write_tar(tmp_path / "b.tar", [("w.png", image)])
    with pytest.raises(DataError, match=r"b.tar/w.png: no label \(1 of 4"):
        ShardSet(tmp_path, with_classes=True)
    write_tar(tmp_path / "b.tar", [("w.png", image), ("w.cls", b"zebra")])
    with pytest.raises(DataError, match="b.tar/w.png: a label that is no whole number"):
        ShardSet(tmp_path, with_classes=True)
    assert len(ShardSet(tmp_path)) == 4


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    path = write_tar(tmp_path / "a.tar", [(name, image_bytes())])
    with pytest.raises(DataError, match="a.tar: member .*x.png' leads out"):
        ShardSet(path)


@pytest.mark.parametrize("names", [("x.png", "x.png"), ("x.png", "x.jpg"), ("d/x.png", "y.png", "d/x.png")])
def test_two_images_of_one_name_are_refused(tmp_path, names):
    path = write_tar(tmp_path / "a.tar", [(name, image_bytes()) for name in names])
    with pytest.raises(DataError, match="a.tar: .*x.png"):
        ShardSet(path)


def test_links_are_skipped_and_named(tmp_path, caplog):
    path = write_tar(tmp_path / "a.tar", [("x.png", image_bytes()), link("y.png", "x.png"),
                                          link("z.png", "x.png", tarfile.LNKTYPE), link("w.png", "", tarfile.FIFOTYPE)])
    assert len(ShardSet(path)) == 1
    assert all(what in caplog.text for what in ("y.png is a link", "z.png is a link", "w.png is no file"))


def test_a_sparse_member_is_skipped_and_named(tmp_path, caplog):
    info = tarfile.TarInfo("s.png")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1",
                        "GNU.sparse.size": "1", "GNU.sparse.numblocks": "1"}
    path = write_tar(tmp_path / "a.tar", [info, ("x.png", image_bytes())], tarfile.PAX_FORMAT)
    assert len(ShardSet(path)) == 1 and "s.png is a sparse file" in caplog.text


def test_damaged_tar_files_are_errors_that_name_them(tmp_path):
    whole = write_tar(tmp_path / "a.tar", [(f"{i}.png", image_bytes(i)) for i in range(4)]).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        second = tar.getmembers()[1].offset
    path = tmp_path / "b.tar"
    for content, match in (
        (whole[:second + 700], "b.tar: not a whole"),
        (whole[:second], "b.tar: at byte .*truncated"),
        (whole[:second] + b"x" * 512 + whole[second + 512:], "b.tar: at byte .* a damaged header"),
        (b"", "b.tar: not a whole"),
        (b"text" * 1000, "b.tar: not a whole"),
        (bytes(10240), "b.tar: no images among its 0"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=match):
            ShardSet(path)
    write_tar(path, [("a.txt", b"x")])
    with pytest.raises(DataError, match="no images among its 1 files; looked for .jpg"):
        ShardSet(path)
    with tarfile.open(tmp_path / "c.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match="c.tar: not a whole, uncompressed"):
        ShardSet(tmp_path / "c.tar")


def test_a_corrupt_member_is_replaced_by_the_same_sample_each_time_and_counted(tmp_path, caplog):
    members = [(f"{i}.png", b"?" if i in (1, 2) else image_bytes(i)) for i in range(6)]
    path = write_tar(tmp_path / "a.tar", members)
    found = ShardSet(path, max_corrupt=0.4)
    assert [found.load(i).path for i in (1, 2, 1)] == [f"{path}/3.png"] * 3
    assert sorted(found.corrupt.found) == [f"{path}/1.png", f"{path}/2.png"]
    assert "1.png cannot be decoded" in caplog.text
    report = tmp_path / "corrupt.txt"
    with pytest.raises(DataError, match="2 of 6 files cannot be decoded"):
        ShardSet(path, max_corrupt=0.2, report=report).load(1)
    assert report.read_text().startswith(f"{path}/1.png\t")


def test_a_shard_cut_while_it_is_read_counts_as_corrupt(tmp_path):
    path = write_tar(tmp_path / "a.tar", [(f"{i}.png", image_bytes(i)) for i in range(3)])
    found = ShardSet(path, max_corrupt=1)
    os.truncate(path, 1300)
    assert found.load(2).path == f"{path}/0.png"
    assert "changed or cut" in found.corrupt.found[f"{path}/2.png"]


def test_few_files_stay_open_however_many_shards_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_OPEN", 2)
    for i in range(5):
        write_tar(tmp_path / f"{i}.tar", [("x.png", image_bytes(i))])
    found = ShardSet(tmp_path)
    first = [found.load(i).image.tobytes() for i in range(5)]
    assert len(found._open) == 2 and [found.load(i).image.tobytes() for i in range(5)] == first
    found.close()
    assert not found._open and found.load(0).image.tobytes() == first[0]


def test_patterns_lists_and_folders_name_the_shards(tmp_path):
    assert expand_braces("t-{008..011}.tar") == ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"] and expand_braces("x.tar") == ["x.tar"]
    for i in range(3):
        write_tar(tmp_path / f"t-{i:02}.tar", [("x.png", image_bytes(i))])
    every = [tmp_path / f"t-{i:02}.tar" for i in range(3)]
    assert find_shards(tmp_path) == find_shards(f"{tmp_path}/t-{{00..02}}.tar") == find_shards(map(str, every)) == every
    with pytest.raises(DataError, match=r"2 of 5 shards .* do not exist \(the first: .*t-03.tar"):
        find_shards(f"{tmp_path}/t-{{00..04}}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no .tar files"):
        find_shards(tmp_path / "empty")


def test_the_command_writes_shards_and_says_how_to_read_them(folder, tmp_path):
    done = subprocess.run([sys.executable, "-m", "beitv2_core.cli", "make-shards", str(folder), str(tmp_path / "out"),
                           "--per-shard", "10", "--with-classes"], capture_output=True, text=True)
    assert done.returncode == 0 and "23 image(s) in 3 file(s) train-*.tar, 2 classes" in done.stdout
    assert "20 of 23 images" in done.stderr and Path(tmp_path / "out" / "classes.txt").read_text() == "a\nb\n"


def test_shards_that_were_not_all_written_are_refused_until_they_are(folder, tmp_path):
    make(folder, tmp_path / "out", with_classes=True)
    steps = write_shards(ImageFolder(folder, with_classes=True), tmp_path / "out", per_shard=5, overwrite=True)
    next(steps)
    with pytest.raises(DataError, match="make-shards` did not finish.*--overwrite"):
        find_shards(tmp_path / "out")
    assert find_shards(make_other(tmp_path / "out")) == [tmp_path / "out" / "other-000000.tar"]
    list(steps)
    assert len(find_shards([str(path) for path in sorted((tmp_path / "out").glob("train-*.tar"))])) == 5


def make_other(out):
    """Shards of another name in the same folder, which are whole."""
    return str(write_tar(out / "other-000000.tar", [("a.png", image_bytes())]))


@pytest.mark.parametrize("label", [("x.cls", str(2**62).encode()), ("x.cls", b"200000000"), ("x.cls", b"9" * 900_000),
                                   ("x.json", str(2**70).encode()), ("x.json", b"[" * 100_000)])
def test_a_label_that_would_make_billions_of_classes_is_named(tmp_path, label):
    path = write_tar(tmp_path / "a.tar", [("x.png", image_bytes()), label])
    with pytest.raises(DataError, match="a.tar/x.png: a label that is no whole number from 0 to 999,999"):
        ShardSet(path, with_classes=True)


@pytest.mark.parametrize(("kind", "size"), [(b"L", 2**60), (b"x", 2**62), (b"x", 2**80), (b"K", 2**62), (b"0", 2**85)])
def test_a_header_that_says_a_size_no_file_has_is_named(tmp_path, kind, size):
    path = write_tar(tmp_path / "a.tar", [("x.png", image_bytes())])
    data = bytearray(path.read_bytes())
    data[124:136], data[156:157], data[148:156] = b"\x80" + size.to_bytes(11, "big"), kind, b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    with pytest.raises(DataError, match="a.tar"):
        ShardSet(path)
