# SPDX-License-Identifier: Apache-2.0
"""One reader for anybody's weights: flat tensors by the file's own names, the rest beside them, faults by path."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.reading.foreign import read_tensors

W = np.arange(6, dtype="f4").reshape(2, 3)


@pytest.fixture
def pickled(tmp_path):
    def save(value):
        path = tmp_path / "m.pdparams"
        path.write_bytes(pickle.dumps(value, 4))
        return path
    return save


def bfloat16(path, upper):
    """A file as safetensors lays it out: length of the header, header, bytes; numpy has no bfloat16 to save."""
    header = json.dumps({"x": {"dtype": "BF16", "shape": upper.shape, "data_offsets": [0, upper.nbytes]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + upper.tobytes())
    return path


def test_a_flat_file_gives_its_tensors_and_its_other_values(pickled):
    tensors, rest = read_tensors(pickled({"w": W, "epoch": 3}))
    assert list(tensors) == ["w"] and rest == {"epoch": 3}
    np.testing.assert_array_equal(tensors["w"], W)


@pytest.mark.parametrize("keys", [("model",), ("module",), ("state_dict",), ("teacher",), ("model", "state_dict")])
def test_nested_weights_are_opened_and_their_neighbours_kept(pickled, keys):
    value = {"w": W, "best": 85.5}
    for key in reversed(keys):
        value = {key: value, "epoch": 7, "optimizer": {"state": {0: {"exp_avg": W}}}}
    tensors, rest = read_tensors(pickled(value))
    assert list(tensors) == ["w"] and set(rest) == {"epoch", "optimizer", "best"}
    assert rest["epoch"] == 7 and rest["best"] == 85.5


@pytest.mark.parametrize("value", [{}, {"epoch": 1}, {"model": {}}, {"student": {"w": W}}])
def test_a_file_without_tensors_says_what_it_holds(pickled, value):
    with pytest.raises(CheckpointError, match="no tensors") as caught:
        read_tensors(pickled(value))
    assert all(key in str(caught.value) for key in value)


def test_large_tensors_split_by_paddle_are_refused(pickled):
    with pytest.raises(CheckpointError, match="protocol=4"):
        read_tensors(pickled({"w@@.0": W, "UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 3)}}}))


@pytest.mark.parametrize("name", ["m.safetensors", "pytorch_model.bin"])
def test_safetensors_are_known_by_content_and_keep_their_order_and_metadata(tmp_path, name):
    path = tmp_path / name
    save_file({"b": W.astype("f2"), "a": W}, str(path), {"format": "pt"})
    tensors, rest = read_tensors(path)
    assert set(tensors) == {"a", "b"} and rest == {"format": "pt"} and tensors["b"].dtype == np.float16
    np.testing.assert_array_equal(tensors["a"], W)


def test_bfloat16_of_safetensors_becomes_float32(tmp_path):
    values = np.array([[1.0, -2.5], [0.15625, 3.0]], "f4")
    tensors, _ = read_tensors(bfloat16(tmp_path / "b.safetensors", (values.view("u4") >> 16).astype("u2")))
    assert tensors["x"].dtype == np.float32
    np.testing.assert_array_equal(tensors["x"], values)


def test_damaged_and_missing_safetensors_are_named(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(CheckpointError, match="m.safetensors: no such file"):
        read_tensors(path)
    save_file({"w": W}, str(path))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="m.safetensors: truncated, damaged"):
        read_tensors(path)
