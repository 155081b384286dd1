# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be decoded are counted over all processes of a run, and over its continuations."""

from __future__ import annotations

import os

import pytest

from beitv2_core.data import CorruptFiles
from beitv2_core.errors import DataError


@pytest.fixture
def files(tmp_path):
    found = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"?")
        os.utime(path, (1e9, 1e9))
        found.append(str(path))
    return found


def of_rank(monkeypatch, rank, report, max_share):
    monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
    return CorruptFiles(100, max_share, report)


def test_the_limit_holds_for_all_processes_together_each_with_a_list_of_its_own(tmp_path, files, monkeypatch):
    report = tmp_path / "run" / "corrupt_files.txt"
    ranks = [of_rank(monkeypatch, rank, report, 0.03) for rank in range(3)]
    for rank, path in zip(ranks, files):
        rank.add(path, "broken")
    ranks[1].add(files[0], "broken")  # met by another process too: counted once
    assert sorted(path.name for path in report.parent.iterdir()) == ["corrupt_files.txt", "corrupt_files_1.txt",
                                                                     "corrupt_files_2.txt"]
    with pytest.raises(DataError, match="4 of 100 files.*corrupt_files_2.txt"):
        ranks[2].add(files[3], "broken")
    listed = (report.parent / "corrupt_files_2.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == files[:4]


def test_a_continued_run_goes_on_counting_but_for_files_that_were_repaired_or_removed(tmp_path, files, monkeypatch):
    report = tmp_path / "corrupt_files.txt"
    first = of_rank(monkeypatch, 0, report, 0.02)
    for path in files[:2]:
        first.add(path, "broken")
    with pytest.raises(DataError, match="3 of 100"):
        of_rank(monkeypatch, 0, report, 0.02).add(files[2], "broken")
    os.utime(files[0], (4e9, 4e9))
    os.remove(files[1])
    of_rank(monkeypatch, 0, report, 0.02).add(files[3], "broken")


def test_the_first_reason_is_told_and_too_many_pixels_are_no_damage(tmp_path):
    corrupt = CorruptFiles(10, 0.0, tmp_path / "list.txt")
    with pytest.raises(DataError) as caught:
        corrupt.add("a.png", "TooManyPixels: 9 x 9 = 81 pixels, data.max_pixels allows 80")
    assert "81 pixels" in str(caught.value) and "emove" not in str(caught.value)


def test_without_a_folder_of_a_run_nothing_is_written_until_the_limit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corrupt = CorruptFiles(10, 0.1)
    corrupt.add("a.png", "broken")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="corrupt_files.txt"):
        corrupt.add("b.png", "broken")
    assert len((tmp_path / "corrupt_files.txt").read_text().splitlines()) == 2
