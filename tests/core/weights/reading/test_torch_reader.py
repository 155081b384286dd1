# SPDX-License-Identifier: Apache-2.0
"""With PyTorch installed its own reader gives the same as ours, and never more; skipped where there is no PyTorch."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.reading import foreign
from beitv2_core.weights.reading.safe_pickle import load_torch_file
from beitv2_core.weights.reading.torch_reader import load_with_torch, usable_torch

torch = pytest.importorskip("torch", minversion="2.6", reason="no PyTorch of 2.6 or newer: `make test-peers`")
pytestmark = pytest.mark.peers


class Runs:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def checkpoint():
    base = torch.arange(12, dtype=torch.float32)
    return {
        "model": OrderedDict(
            half=torch.randn(5).half(), brain=torch.tensor([1.0, -2.5, float("nan"), 3e38]).bfloat16(),
            ids=torch.arange(6).reshape(2, 3), flag=torch.tensor([True, False]), scalar=torch.tensor(2.5),
            turned=base.reshape(4, 3).T, part=base[5:9].reshape(2, 2), empty=torch.zeros(0, 3),
            parameter=torch.nn.Parameter(torch.randn(3)), twice=base, wide=torch.randn(2).double(),
            complex=torch.tensor([1 + 2j])),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0, 1]}]},
        "args": argparse.Namespace(lr=1e-3, dtype=torch.float16, device=torch.device("cuda:1"), size=torch.Size([2])),
        "epoch": 3, "best": np.float64(85.5), "curve": np.arange(4.0), "pairs": [("a", torch.ones(2)), ("b", "c")],
    }


def equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and not a.flags.writeable and not b.flags.writeable
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            equal(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_readers_give_the_same_dictionary(tmp_path, zipped):
    path = tmp_path / "c.pth"
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=zipped)
    ours, theirs = load_torch_file(path), load_with_torch(path, torch)
    equal(ours, theirs)
    assert ours["model"]["brain"].dtype == np.float32 and ours["model"]["brain"][1] == -2.5
    tensors, rest = foreign.read_tensors(path)
    assert list(tensors) == list(ours["model"]) and rest["epoch"] == 3


def test_a_compressed_archive_is_read_without_mapping(tmp_path):
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "c.pth")
    with zipfile.ZipFile(tmp_path / "c.pth") as old, \
            zipfile.ZipFile(tmp_path / "d.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    equal(load_torch_file(tmp_path / "d.pth"), load_with_torch(tmp_path / "d.pth", torch))


def test_torch_is_asked_for_files_of_torch_save_only(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(foreign, "load_with_torch", lambda path, module: asked.append(path.name) or {"w": np.ones(1)})
    torch.save({"w": torch.ones(1)}, tmp_path / "zip.pth")
    torch.save({"w": torch.ones(1)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    for path in sorted(tmp_path.iterdir()):
        foreign.read_tensors(path)
    assert asked == ["old.bin", "zip.pth"]
    monkeypatch.setenv("BEITV2_TORCH", "0")
    foreign.read_tensors(tmp_path / "zip.pth")
    assert len(asked) == 2


def test_a_torchscript_archive_gives_the_state_dict_of_its_module(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.jit.script(module).save(tmp_path / "s.pt")
    tensors, _ = foreign.read_tensors(tmp_path / "s.pt")
    assert set(tensors) == set(module.state_dict())
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(tensors[name], value.numpy())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_one_refuses_is_refused_and_not_run(tmp_path, zipped):
    path, marker = tmp_path / "c.pth", tmp_path / "marker"
    torch.save({"w": torch.ones(1), "x": Runs(f"touch {marker}")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"c.pth: the file asks for (posix|nt)\.system"):
        foreign.read_tensors(path)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_refusal_of_torch_is_final_and_does_not_repeat_its_advice(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"w": torch.ones(1), "text": "é" * 300}, path, pickle_protocol=4)  # our own reader takes it
    assert load_torch_file(path)["text"]
    with pytest.raises(CheckpointError, match="c.pth: PyTorch .* refuses it") as caught:
        foreign.read_tensors(path)
    assert "weights_only" not in str(caught.value) and "False" not in str(caught.value)


def test_a_damaged_number_is_noticed_although_torch_would_not(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"w": torch.full((1000,), 7.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(100, 7, "f4").tobytes()) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        foreign.read_tensors(path)


def test_an_old_torch_and_a_broken_one_are_not_used(monkeypatch, caplog):
    assert usable_torch() is torch
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.5.1")
    assert usable_torch() is None
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)
    with caplog.at_level("WARNING", logger="beitv2_core"):
        assert usable_torch() is None
    assert "cannot be imported" in caplog.text


@pytest.mark.parametrize("order", ["paddle first", "torch first"])
def test_torch_and_paddle_live_in_one_process(tmp_path, order):
    pytest.importorskip("paddle")
    torch.save({"w": torch.arange(6.0).reshape(2, 3)}, tmp_path / "c.pth")
    read = (f"from beitv2_core.weights.reading.foreign import read_tensors\n"
            f"w = read_tensors({str(tmp_path / 'c.pth')!r})[0]['w']")
    use = ("import paddle\nx = paddle.ones([4, 3, 8, 8]); x.stop_gradient = False\n"
           "y = paddle.nn.Conv2D(3, 2, 3)(x).sum(); y.backward()\nassert x.grad.shape == x.shape")
    parts = [use, read] if order == "paddle first" else [read, use]
    code = "\n".join(["import beitv2_core, sys", *parts, "assert 'torch' in sys.modules",
                      "assert (paddle.to_tensor(w) @ paddle.to_tensor(w.T)).numpy().tolist() == (w @ w.T).tolist()"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
