# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beitv2_core.files.atomic import (
    append_to,
    write_atomically,
    write_files_together,
    write_folder_atomically,
    write_text_atomically,
    write_text_once,
)


def test_a_file_appears_when_it_is_complete_and_its_folder_with_it(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole" and [found.name for found in path.parent.iterdir()] == ["a.txt"]


def test_what_cannot_be_written_leaves_nothing_half_and_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")
    with pytest.raises(ValueError, match="broken"), write_atomically(path) as temporary:
        temporary.write_text("ne")
        raise ValueError("broken")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(path, "new")
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"


def test_the_content_reaches_the_disk_before_the_name_does_and_the_name_before_the_writer_ends(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), replace(*paths)))
    write_text_atomically(tmp_path / "a.txt", "new")
    assert order == ["sync", "rename", "sync"]


WRITER = """
import sys, time
from beitv2_core.files.atomic import write_atomically
with write_atomically(sys.argv[1]) as temporary, open(temporary, "wb") as file:
    file.write(b"half"), file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def writer(path: Path) -> subprocess.Popen:
    """A process in the middle of writing a file."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    return process


def killed(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_what_a_killed_process_left_goes_when_the_same_file_is_written_again(tmp_path):
    path, other = tmp_path / "codes.npz", tmp_path / "codes.npz.json"
    for output in (path, other):
        killed(writer(output))
    alive = writer(path)
    try:
        assert len(list(tmp_path.iterdir())) == 2, "the next process removes it before it writes"
        write_text_atomically(path, "whole")
        assert path.read_text() == "whole"
        left = {found.name.split(".")[-3] for found in tmp_path.glob(".*")}
        assert str(alive.pid) in left, "another process is writing that"
        assert len(left) == 2, "another file's leftover goes when that is written"
    finally:
        killed(alive)


def test_a_file_that_is_being_written_is_told_from_a_leftover_by_its_lock_not_by_its_number(tmp_path):
    """The number in a name may be of a process on another host or in another container, or of a later one here."""
    path = tmp_path / "a.txt"
    of_a_living_number = tmp_path / f".a.txt.{os.getppid()}.beitv2.tmp"
    of_a_living_number.write_text("half")
    write_text_atomically(path, "whole")
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_text_that_is_written_once_stays(tmp_path):
    for text in ("first", "second"):
        write_text_once(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_appears_when_it_is_complete_and_an_old_one_steps_aside_until_then(tmp_path):
    path, aside = tmp_path / "new" / "a", tmp_path / "new" / "aside"
    for content in ("one", "two"):
        with write_folder_atomically(path, aside=aside) as temporary:
            (temporary / "x").write_text(content)
            assert content == "one" or (path / "x").read_text() == "one"
        assert (path / "x").read_text() == content and [found.name for found in path.parent.iterdir()] == ["a"]
    with pytest.raises(OSError), write_folder_atomically(path) as temporary:
        (temporary / "x").write_text("three")
    assert (path / "x").read_text() == "two" and [found.name for found in path.parent.iterdir()] == ["a"]


def test_files_that_belong_together_are_replaced_together_and_others_stay(tmp_path):
    (tmp_path / "own.txt").write_text("mine")
    for content in ("one", "two"):
        with write_files_together(tmp_path, last="weights") as temporary:
            (temporary / "config").write_text(content)
            (temporary / "weights").write_text(content)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "own.txt": "mine", "config": "two", "weights": "two"}
    with pytest.raises(ValueError, match="broken"), write_files_together(tmp_path, last="weights") as temporary:
        (temporary / "config").write_text("three")
        raise ValueError("broken")
    assert (tmp_path / "config").read_text() == (tmp_path / "weights").read_text() == "two"


def test_lines_are_added_and_one_that_was_cut_short_gets_its_end(tmp_path):
    path = tmp_path / "new" / "lines"
    for text in ("one\n", "two", "three\n"):
        with append_to(path) as file:
            file.write(text)
    assert path.read_text() == "one\ntwo\nthree\n"
