# SPDX-License-Identifier: Apache-2.0
"""Large files: the same bytes whatever the sizes of the pieces and whatever the file system can."""

from __future__ import annotations

import errno
import hashlib
import os

import numpy as np
import pytest

from beitv2_core.files import large
from beitv2_core.files.large import LargeFile

SIZES = [0, 1, 4095, 4096, 4097, 3 * 4096, 10 * 4096 + 5]


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(large, "BUFFER", 4096)


@pytest.fixture
def written(monkeypatch):
    """(bytes, whether past the system's memory) of each write."""
    found, write = [], os.write

    def told(descriptor, content):
        flags = large.fcntl.fcntl(descriptor, large.fcntl.F_GETFL)
        found.append((len(content), bool(flags & os.O_DIRECT)))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", told)
    return found


def write_pieces(path, size, piece):
    content = np.random.default_rng(size).bytes(size)
    with LargeFile(path) as file:
        for begin in range(0, size, piece):
            file.write(content[begin:begin + piece])
    assert path.read_bytes() == content and file.sha256() == hashlib.sha256(content).hexdigest()


def has_direct(folder):
    descriptor = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT)
    try:
        return large._set_direct(descriptor, True)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("piece", [1000, 4096, 10**6])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_in_the_file_and_in_the_hash(tmp_path, size, piece):
    write_pieces(tmp_path / "x", size, piece)


def test_whole_buffers_go_past_the_memory_and_the_rest_through_it(tmp_path, monkeypatch):
    direct, lengths, write = [False], [], os.write

    def switch(descriptor, on):
        direct[0] = on
        return on

    monkeypatch.setattr(large, "_set_direct", switch)
    monkeypatch.setattr(os, "write", lambda descriptor, content: lengths.append((len(content), direct[0])) or write(
        descriptor, content))
    write_pieces(tmp_path / "x", 2 * 4096 + 100, 10**6)
    assert lengths == [(4096, True), (4096, True), (100, False)]


def test_the_system_has_the_flag_while_whole_buffers_are_written(tmp_path, written):
    if not has_direct(tmp_path):
        pytest.skip("this file system has no O_DIRECT")
    write_pieces(tmp_path / "x", 2 * 4096 + 100, 10**6)
    assert written == [(4096, True), (4096, True), (100, False)]


@pytest.mark.parametrize("refusing", ["switch", "write", "half", "system"])
def test_without_direct_writing_the_file_is_the_same(tmp_path, monkeypatch, refusing):
    """The flag cannot be set; the disk has larger blocks; a write ends in the midst of a block; no such system call."""
    write, direct, calls = os.write, [False], []

    def switch(descriptor, on):
        direct[0] = on
        return on

    def picky(descriptor, content):
        calls.append(direct[0])
        if direct[0] and refusing == "half" and len(calls) == 1:
            return write(descriptor, bytes(content[:100]))
        if direct[0]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, content)

    if refusing == "switch":
        monkeypatch.setattr(large, "_set_direct", lambda descriptor, on: False)
    elif refusing == "system":
        monkeypatch.setattr(large, "fcntl", None)
    else:
        monkeypatch.setattr(large, "_set_direct", switch)
        monkeypatch.setattr(os, "write", picky)
    write_pieces(tmp_path / "x", 3 * 4096 + 100, 10**6)
    assert any(calls) == (refusing in ("write", "half"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("size", [100, 3 * 4096])
def test_a_full_disk_is_an_error_and_the_file_is_closed(size):
    file = LargeFile("/dev/full")
    with pytest.raises(OSError, match="No space left"), file:
        file.write(bytes(size))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file._descriptor)
