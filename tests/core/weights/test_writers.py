# SPDX-License-Identifier: Apache-2.0
"""Files written here are read by our own reader, by Torch and by safetensors as they were; half a file never stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model_files import assert_same_tensors
from safetensors.numpy import load_file, save

from beitv2_core.errors import CheckpointError
from beitv2_core.files import atomic
from beitv2_core.files.hashing import sha256_of
from beitv2_core.weights.reading.foreign import read_tensors
from beitv2_core.weights.writers import save_tensors, write_paddle, write_safetensors, write_torch


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "turned": rng.random((3, 5), dtype=np.float32).T, "half": rng.random((2, 3, 4)).astype(np.float16),
        "scalar": np.array(7, np.int64), "empty": np.zeros((0, 3), np.float32), "flags": np.array([True, False]),
        "double": rng.random(3), "bytes": np.arange(5, dtype=np.uint8), "part": rng.random((6, 4))[1:4, ::2],
    }


@pytest.mark.parametrize("nest", [None, "model"])
def test_torch_files_are_read_back(tensors, tmp_path, nest):
    write_torch(tmp_path / "x.pth", tensors, nest)
    assert_same_tensors(read_tensors(tmp_path / "x.pth")[0], tensors)


@pytest.mark.peers
@pytest.mark.parametrize("mapped", [False, True])
def test_torch_itself_reads_them_without_trusting_them(tensors, tmp_path, mapped):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make test-peers`")
    write_torch(tmp_path / "x.pth", tensors, "model")
    found = torch.load(tmp_path / "x.pth", weights_only=True, mmap=mapped)["model"]
    assert list(found) == list(tensors)
    assert_same_tensors({name: value.numpy() for name, value in found.items()}, tensors)


def test_storages_lie_where_torch_can_map_them(tensors, tmp_path):
    import zipfile

    write_torch(tmp_path / "x.pth", tensors)
    data = (tmp_path / "x.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        for info in archive.infolist():
            name, extra = (int.from_bytes(data[info.header_offset + at:info.header_offset + at + 2], "little")
                           for at in (26, 28))
            assert (info.header_offset + 30 + name + extra) % 64 == 0, info.filename


def test_safetensors_are_read_back_with_their_text(tensors, tmp_path):
    write_safetensors(tmp_path / "x.safetensors", tensors, {"kind": "test"})
    assert_same_tensors(load_file(tmp_path / "x.safetensors"), tensors)
    found, rest = read_tensors(tmp_path / "x.safetensors")
    assert_same_tensors(found, tensors)
    assert rest == {"kind": "test"}


def test_safetensors_have_the_bytes_of_their_library_and_the_hash_that_is_told(tensors, tmp_path):
    kinds = ("u8", "u4", "i4", "u2", "i2", "i1")
    tensors.update({f"{kind} {name}": np.ones(3, kind) for name in "ba" for kind in kinds})
    expected = save({name: np.asarray(value, order="C") for name, value in tensors.items()})
    digest = save_tensors(tmp_path / "x", tensors)
    write_safetensors(tmp_path / "y", tensors, {})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == expected
    assert digest == sha256_of(tmp_path / "x")


def test_paddle_files_are_read_back(tensors, tmp_path):
    paddle = pytest.importorskip("paddle")
    write_paddle(tmp_path / "x.pdparams", tensors)
    assert_same_tensors(read_tensors(tmp_path / "x.pdparams")[0], tensors)
    loaded = getattr(paddle, "load")(str(tmp_path / "x.pdparams"), return_numpy=True)  # noqa: B009
    assert_same_tensors(loaded, tensors)


def test_the_same_tensors_give_the_same_file(tensors, tmp_path):
    for name in ("a", "b"):
        write_torch(tmp_path / name, tensors)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("write", [write_torch, lambda path, tensors: write_safetensors(path, tensors, {})])
def test_a_type_the_format_has_not_is_named_and_nothing_is_left(tmp_path, write):
    with pytest.raises(CheckpointError, match="strange holds complex64"):
        write(tmp_path / "x", {"strange": np.zeros(2, np.complex64)})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_alone(tensors, tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"x\.pth: could not be written: .*No space left"):
        write_torch(path, tensors)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_named(tensors):
    with pytest.raises(CheckpointError, match="could not be written"):
        write_torch(Path("/dev/null/x.pth"), tensors)
