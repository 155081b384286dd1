# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beitv2_core.files.atomic import write_atomically, write_text_atomically


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
