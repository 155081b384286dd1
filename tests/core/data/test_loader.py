# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beitv2_core.data import (
    BatchReader,
    DigitScenes,
    ImageFolder,
    Loader,
    MimTransform,
    ResumableSampler,
    Sample,
    TokenizerTransform,
)
from beitv2_core.data.sources.identity import identity
from beitv2_core.errors import DataError
from beitv2_core.masking import BlockwiseMasking


class Numbers:
    """Image i has the grey value i."""

    classes = None

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def load(self, index):
        return Sample(Image.new("RGB", (8, 8), (index,) * 3), index, str(index), None)


def values(sample, rng):
    return {"value": np.asarray(sample.image)[0, 0, 0], "draw": rng.python.random(), "path": sample.path}


def in_order(seed, epoch, length=12):
    return np.arange(length)


def take(batches, count):
    return list(itertools.islice(batches, count))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b)) and len(a) == len(b)


def scenes_loader(num_workers=0, rank=0, world_size=1, batch_size=4):
    scenes = DigitScenes("train", size=22)
    transform = MimTransform(16, BlockwiseMasking((4, 4), 6, min_block=2))
    sampler = ResumableSampler(22, batch_size=batch_size, rank=rank, world_size=world_size, seed=5)
    return Loader(scenes, transform, sampler, num_workers=num_workers, seed=5)


def test_batches_do_not_depend_on_the_number_of_workers_and_resume_exactly():
    alone = take(scenes_loader(), 13)
    with scenes_loader(num_workers=2) as loader:
        got = take(loader, 7)
        assert all(same(a, b) for a, b in zip(alone, got))
        state = loader.state()
        assert (state["epoch"], state["picture"]) == (1, 2 * 4)  # 5 batches an epoch; prefetched ones are not counted
        assert all(same(a, b) for a, b in zip(alone[7:], take(loader, 6)))  # iterating again goes on
    other = scenes_loader()
    other.load_state(state)
    assert all(same(a, b) for a, b in zip(alone[7:], take(other, 6)))


def test_each_epoch_augments_anew():
    loader = scenes_loader()
    first, second = {}, {}
    for number, batch in enumerate(take(loader, 10)):
        (first if number < 5 else second).update(zip(batch.paths, batch.patch_view))
    shared = set(first) & set(second)
    assert shared and all((first[path] != second[path]).any() for path in shared)


def test_two_ranks_make_the_same_samples_as_one_with_the_double_batch():
    one = take(scenes_loader(batch_size=4), 4)
    ranks = [take(scenes_loader(rank=rank, world_size=2, batch_size=2), 4) for rank in (0, 1)]
    for step, batch in enumerate(one):
        views = dict(zip(batch.paths, batch.patch_view))
        for part in (ranks[0][step], ranks[1][step]):
            for path, view in zip(part.paths, part.patch_view):
                np.testing.assert_array_equal(views.pop(path), view)
        assert not views


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_in_order_visits_what_was_asked_for_and_keeps_the_short_last_batch(num_workers):
    with BatchReader(Numbers(12), values, num_workers=num_workers) as reader:
        for numbers in (range(10), [7, 2, 2, 11, 0]):  # several passes use the same workers
            batches = list(reader.in_order(numbers, 4))
            assert np.concatenate([batch["value"] for batch in batches]).tolist() == list(numbers)
    assert batches[-1]["path"] == ["0"]


def test_an_exception_in_a_worker_is_a_data_error_that_names_it():
    too_long = ResumableSampler(9, batch_size=1, order=lambda seed, epoch: in_order(seed, epoch, 9))
    with Loader(DigitScenes(size=8), TokenizerTransform(8), too_long, num_workers=1) as loader:
        with pytest.raises(DataError, match="IndexError: DigitScenes: image 8"):
            take(loader, 9)
        assert loader.state()["picture"] == 8  # everything before the failure was handed out


def test_a_killed_worker_is_a_data_error_and_iterating_again_starts_new_ones():
    sampler = ResumableSampler(8, batch_size=2)
    with Loader(DigitScenes(size=8), TokenizerTransform(8), sampler, num_workers=1) as loader:
        batches = iter(loader)
        next(batches)
        for pid in list(loader._pool._processes):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match="killed, or out of memory"):
            take(batches, 20)
        assert len(take(loader, 2)) == 2


def corrupt_folder(tmp_path):
    for number in range(12):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    for number in (2, 7, 9):
        (tmp_path / f"{number:02}.png").write_bytes(b"?")
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_corrupt_files_are_replaced_and_counted_over_all_workers(tmp_path, num_workers):
    folder = ImageFolder(corrupt_folder(tmp_path), max_corrupt=0.25)
    sampler = ResumableSampler(12, batch_size=3, order=in_order)
    with Loader(folder, TokenizerTransform(8), sampler, num_workers=num_workers) as loader:
        paths = [Path(path).name for batch in take(loader, 8) for path in batch.paths]
    assert paths[:12] == paths[12:] and paths[2] == "03.png" and paths[7] == "08.png" and paths[9] == "10.png"
    assert sorted(Path(path).name for path in folder.corrupt.found) == ["02.png", "07.png", "09.png"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_corrupt_files_over_all_workers_stop_the_run(tmp_path, num_workers):
    report = tmp_path / "corrupt.txt"
    folder = ImageFolder(corrupt_folder(tmp_path), max_corrupt=0.2, report=report)
    sampler = ResumableSampler(12, batch_size=3, order=in_order)
    with Loader(folder, TokenizerTransform(8), sampler, num_workers=num_workers) as loader:
        with pytest.raises(DataError, match="3 of 12 files"):
            take(loader, 4)
    assert len(report.read_text().splitlines()) == 3


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_when_their_parent_is_killed(tmp_path):
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to see processes")
    script = tmp_path / "run.py"
    script.write_text(
        "import time\n"
        "from beitv2_core.data import *\n"
        "if __name__ == '__main__':\n"
        "    sampler = ResumableSampler(8, batch_size=2)\n"
        "    loader = Loader(DigitScenes(size=8), TokenizerTransform(8), sampler, num_workers=2)\n"
        "    next(iter(loader))\n"
        "    print(*loader._pool._processes, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        workers = [int(word) for word in process.stdout.readline().split()]
        assert workers and all(alive(pid) for pid in workers)
    finally:
        process.kill()
        process.wait()
    for _ in range(100):
        if not any(alive(pid) for pid in workers):
            return
        time.sleep(0.1)
    pytest.fail(f"workers {workers} outlived their parent")


class Asked:
    """Draws on a transform that counts, in a file, the batches workers have begun."""

    def __init__(self, path):
        self.path = path

    def __call__(self, sample, rng):
        if sample.label % 4 == 0:
            with open(self.path, "a") as file:
                file.write("x")
        return {"value": np.zeros((100, 100), np.uint8)}


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_batches_are_prepared_ahead_than_were_asked_for(tmp_path, prefetch):
    path = tmp_path / "begun"
    sampler = ResumableSampler(400, batch_size=4, order=lambda seed, epoch: in_order(seed, epoch, 400))
    with Loader(Numbers(400), Asked(path), sampler, num_workers=2, prefetch=prefetch) as loader:
        for taken, _ in enumerate(loader, start=1):
            if taken == 8:
                break
            time.sleep(0.05)  # the consumer is the slower one
            assert len(path.read_text()) <= taken + 2 * prefetch


class Large:
    """Images of 3 MB, and the memory of whoever decodes them."""

    classes = None

    def __len__(self):
        return 4000

    def load(self, index):
        return Sample(Image.new("RGB", (1000, 1000), (index % 256, 0, 0)), index, str(index), None)


def resident(sample, rng):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"image": np.asarray(sample.image), "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}


def test_the_memory_of_a_worker_does_not_grow_with_the_batches_it_made():
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to see memory")
    sampler = ResumableSampler(4000, batch_size=4)  # 12 MB a batch
    with Loader(Large(), resident, sampler, num_workers=1) as loader:
        used = [float(batch["megabytes"].max()) for batch in take(loader, 60)]
    assert max(used[30:]) < max(used[:15]) + 3 * 12, used


def test_impossible_numbers_are_named():
    with pytest.raises(DataError, match="num_workers -1"):
        Loader(Numbers(4), values, ResumableSampler(4, batch_size=2), num_workers=-1)


def grey_folder(root, names):
    root.mkdir()
    for number, name in enumerate(names):
        Image.new("L", (8, 8), number).save(root / name)
    return root


def test_images_are_told_apart_by_names_labels_and_bytes_and_not_by_their_folder(tmp_path):
    first = ImageFolder(grey_folder(tmp_path / "first", ["a.png", "b.png", "c.png", "d.png"]))
    known = identity(first)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "first", moved)
    assert identity(ImageFolder(moved)) == known
    assert identity(ImageFolder(grey_folder(tmp_path / "other", ["a.png", "b.png", "c.png", "e.png"]))) != known
    Image.new("L", (8, 8), 99).save(moved / "c.png")
    assert identity(ImageFolder(moved)) != known
    for name, labels in (("one.txt", "0011"), ("two.txt", "0101")):
        (tmp_path / name).write_text("".join(f"{p}.png {label}\n" for p, label in zip("abcd", labels)))
    one, two = (identity(ImageFolder(tmp_path / "first", list_file=tmp_path / f"{name}.txt", with_classes=True))
                for name in ("one", "two"))
    assert len({known, one, two}) == 3
