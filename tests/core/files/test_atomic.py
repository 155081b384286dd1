# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

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


def test_the_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), replace(*paths)))
    write_text_atomically(tmp_path / "a.txt", "new")
    assert order == ["sync", "rename"]
