# SPDX-License-Identifier: Apache-2.0
"""Weights files are read without executing anything: formats, bounds, and everything a hostile file may try."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from weights_files import Code, Saved, call, encode, named, stream

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.reading.safe_pickle import inspect_torch_file, load_torch_file


@pytest.fixture(params=["zip", "old"])
def write(request, tmp_path):
    """Save a value, given its tensors, in either of PyTorch's formats."""
    def save(make):
        saved = Saved(legacy=request.param == "old")
        return getattr(saved, request.param)(tmp_path / "weights.pth", make(saved.tensor))
    return save


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_torch_file(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_tensors_of_every_kind_come_back_as_they_were(write):
    rng = np.random.RandomState(0)
    arrays = {"weight": rng.randn(3, 4).astype("f4"), "half": rng.randn(5).astype("f2"),
              "ids": np.arange(6).reshape(2, 3), "flag": np.array([True, False]), "scalar": np.float32(2.5).reshape(())}
    found = load_torch_file(write(lambda tensor: {name: tensor(array) for name, array in arrays.items()}))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_bfloat16_becomes_float32(write):
    values = np.array([1.0, -2.5, 0.15625], "f4")
    upper = (values.view("u4") >> 16).astype("u2")
    np.testing.assert_array_equal(load_torch_file(write(lambda tensor: {"x": tensor(upper)}))["x"], values)


def test_views_and_transposes_follow_offset_and_stride(write):
    base = np.arange(12, dtype="f4")
    found = load_torch_file(write(lambda tensor: {
        "turned": tensor(base, size=(3, 4), stride=(1, 3)),
        "part": tensor(base, size=(2, 2), stride=(4, 1), offset=5)}))
    np.testing.assert_array_equal(found["turned"], base.reshape(4, 3).T)
    np.testing.assert_array_equal(found["part"], [[5, 6], [9, 10]])


def test_nested_checkpoints_keep_their_nesting_and_settings_become_a_dict(write):
    settings = Code(named("argparse.Namespace") + b")\x81" + encode({"lr": 3, "size": (2, 3)}) + b"b")
    ordered = Code(call("collections.OrderedDict") + encode("w") + encode(3) + b"s")
    found = load_torch_file(write(lambda tensor: {
        "model": {"w": tensor(np.ones(2, "f4"))}, "args": settings, "ordered": ordered,
        "parameter": call("torch._utils._rebuild_parameter", tensor(np.ones(3, "f4")), True, None)}))
    np.testing.assert_array_equal(found["model"]["w"], [1, 1])
    assert found["args"] == {"lr": 3, "size": (2, 3)} and found["ordered"] == {"w": 3}
    assert found["parameter"].shape == (3,)


def test_a_torchscript_archive_gives_its_state_dict(tmp_path):
    saved = Saved()

    def module(name, **attributes) -> Code:
        return Code(named(f"__torch__.clip.{name}") + b")\x81" + encode(attributes) + b"b")

    layer = module("Linear", weight=saved.tensor(np.eye(2, dtype="f2")), training=False)
    ids = call("torch.jit._pickle.build_intlist", Code(b"](K\x01K\x02e"))
    model = module("CLIP", visual=module("Visual", proj=layer, ids=ids), logit_scale=saved.tensor(np.ones((), "f4")))
    found = load_torch_file(saved.zip(tmp_path / "clip.pt", model))
    assert sorted(found) == ["logit_scale", "visual.proj.weight"]
    np.testing.assert_array_equal(found["visual.proj.weight"], np.eye(2))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_paddle_files_are_read(tmp_path, protocol):
    class Tensor:  # Paddle reduces a tensor to tuple((name, array))
        def __reduce__(self):
            return tuple, (("linear_0.w_0", np.arange(6, dtype="f4").reshape(2, 3)),)

    path = tmp_path / "m.pdparams"
    state = OrderedDict([("weight", Tensor()), ("bias", np.ones(2, "f8").reshape(2, 1, order="F"))])
    path.write_bytes(pickle.dumps(state, protocol))
    found = load_torch_file(path)
    np.testing.assert_array_equal(found["weight"], np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(found["bias"], [[1], [1]])


def test_what_is_read_cannot_be_written_to(write):
    found = load_torch_file(write(lambda tensor: {"x": tensor(np.ones(3, "f4"))}))
    with pytest.raises(ValueError):
        found["x"][0] = 2


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["os.system", "posix.system", "builtins.exec", "builtins.getattr", "subprocess.Popen",
                                  "torch.load", "numpy.load", "torch.hub.load", "beitv2_core.errors.BEiTError"])
def test_a_global_outside_the_list_is_named_and_not_called(write, tmp_path, name):
    witness = tmp_path / "witness"
    message = refused(write(lambda tensor: {"x": call(name, f"touch {witness}")}))
    assert name in message and not witness.exists()


def test_eval_is_only_understood_in_the_form_paddle_writes(write):
    array = np.ones(2, "f4")
    found = load_torch_file(write(lambda tensor: {"x": call("builtins.eval", "data", {"data": tensor(array)})}))
    np.testing.assert_array_equal(found["x"], array)
    assert "eval" in refused(write(lambda tensor: {"x": call("builtins.eval", "data or 1", {"data": tensor(array)})}))


@pytest.mark.parametrize("state", [{"call": 1}, (None, {"call": 1})])
def test_a_file_cannot_change_what_a_global_stands_for(write, state):
    attack = Code(named("torch._utils._rebuild_tensor_v2") + encode(state) + b"b")
    refused(write(lambda tensor: {"x": attack}))
    assert load_torch_file(write(lambda tensor: {"x": tensor(np.ones(2, "f4"))}))["x"].tolist() == [1, 1]


@pytest.mark.parametrize("change", [{"size": (3, 4)}, {"size": (4,), "stride": (2,)}, {"offset": 3},
                                    {"size": (9, 9), "stride": (0, 0)}, {"size": (2,), "stride": (-1,), "offset": 1}])
def test_a_tensor_beyond_its_storage_is_refused_by_name(write, change):
    message = refused(write(lambda tensor: {"block": {"weight": tensor(np.ones(4, "f4"), **change)}}))
    assert "block.weight" in message


def test_a_storage_with_too_few_bytes_is_named(tmp_path):
    saved = Saved()
    value = {"w": saved.tensor(np.ones(8, "f4"))}
    saved.storages["0"] = saved.storages["0"][:5]
    message = refused(saved.zip(tmp_path / "w.pth", value))
    assert "w: its storage '0' has 20 bytes, 32 were declared" in message
    del saved.storages["0"]
    assert "has 0 bytes" in refused(saved.zip(tmp_path / "w.pth", value))


@pytest.mark.parametrize("kept", [0, 1, 10, 0.3, 0.8, 0.99])
def test_a_truncated_file_is_refused(write, kept):
    path = write(lambda tensor: {"w": tensor(np.ones((40, 40), "f4"))})
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert "truncated" in refused(path)


def test_a_damaged_byte_in_a_storage_is_noticed(tmp_path):
    saved = Saved()
    path = saved.zip(tmp_path / "w.pth", {"w": saved.tensor(np.full((40, 40), 7, "f4"))})
    data = bytearray(path.read_bytes())
    data[data.index(np.full(10, 7, "f4").tobytes()) + 20] ^= 1
    path.write_bytes(data)
    assert "CRC" in refused(path)


def test_a_storage_longer_than_declared_is_refused(tmp_path):
    saved = Saved()
    path = saved.zip(tmp_path / "w.pth", {"w": saved.tensor(np.full((4, 4), 7, "f4"))})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content + bytes(4096) if "/data/" in name else content)
    assert "has 4160 bytes, 64 were declared" in refused(path)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", stream({}))
        with archive.open("archive/data/0", "w") as entry:
            for _ in range(80):
                entry.write(bytes(2**20))
    assert "zip bomb" in refused(path)


def peak_of(function) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_huge_memo_index_costs_nothing(tmp_path):
    path = tmp_path / "memo.pdparams"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    assert peak_of(lambda: load_torch_file(path)) < 2**20 and load_torch_file(path) == {}


BIG = b"X" + struct.pack("<I", 2**20) + bytes(2**20)  # one string, kept in the memo and used again and again


@pytest.mark.parametrize("content, said", [
    (b"\x80\x02" + b"X\xff\xff\xff\x7f", "announced"),
    (b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.", "announced"),
    (b"\x80\x04\x95" + b"\xff" * 7 + b"\x0f.", "announced"),
    (b"\x80\x02" + b"\x8f" * 300_001 + b".", "bomb"),
    (b"\x80\x02" + BIG + b"q\x000" + b"(" + b"".join(
        named("_codecs.encode") + b"h\x00" + encode("latin1") + b"\x86R" for _ in range(3000)) + b"t.", "bomb"),
    (b"\x80\x02](" + b"N" * 2**17 + b"eq\x000" + b"(" + b"".join(
        named("builtins.list") + b"h\x00\x85R" for _ in range(3000)) + b"t.", "bomb"),
    (b"\x80\x02}" + b")" + b"\x85" * 150_000 + b"Ns.", "as the key"),
    (b"\x80\x02}" + b")" + b"q\x00h\x00h\x00\x87" * 60 + b"Ns.", "as the key"),
], ids=["long text", "long buffer", "long frame", "many sets", "many texts", "many lists", "deep key", "wide key"])
def test_a_small_file_cannot_fill_the_memory_or_the_stack(tmp_path, monkeypatch, content, said):
    monkeypatch.setattr("beitv2_core.weights.reading.restricted_pickle.MOST_INSTRUCTIONS", 300_000)
    path = tmp_path / "bomb.pdparams"
    path.write_bytes(content)
    messages = []
    assert peak_of(lambda: messages.append(refused(path))) < 2**26 + 64 * len(content)
    assert said in messages[0]


def test_modules_that_stand_for_any_number_are_refused(tmp_path):
    saved = Saved()
    shared = b"".join(named(f"__torch__.M{i}") + b")\x81q" + bytes([i])
                      + (b"}(" + encode("a") + b"h" + bytes([i - 1]) + encode("b") + b"h" + bytes([i - 1]) + b"u"
                         if i else b"}") + b"b" + (b"0" if i < 60 else b"") for i in range(61))
    assert "modules" in refused(saved.zip(tmp_path / "m.pt", Code(shared)))


@pytest.mark.parametrize("instruction", [b"(ios\nsystem\n", b"\x82\x01", b"(c__builtin__\neval\no", b"Pid\n", b"\x97"])
def test_instructions_that_weights_never_use_are_refused(tmp_path, instruction):
    path = tmp_path / "m.pdparams"
    path.write_bytes(b"\x80\x02}" + instruction + b".")
    assert "which no weights file needs" in refused(path)


def test_conjugate_views_are_refused_by_name(write):
    def marked(tensor):
        plain = bytes(tensor(np.ones(2, "f4")))
        return Code(plain[: -len(b"tR")] + encode({"conj": True}) + b"tR")
    assert "conj" in refused(write(lambda tensor: {"x": marked(tensor)}))


def test_an_archive_with_two_entries_of_one_name_is_refused(tmp_path):
    saved = Saved()
    path = saved.zip(tmp_path / "w.pth", {"w": saved.tensor(np.ones(2, "f4"))})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("archive/data/0", bytes(8))
    assert "two entries" in refused(path)


def test_an_inspection_checks_everything_and_keeps_no_numbers(tmp_path):
    saved = Saved()
    path = saved.zip(tmp_path / "w.pth", {"model": {"w": saved.tensor(np.full((2000, 2000), 7, "f4"))}, "epoch": 3})
    assert peak_of(lambda: inspect_torch_file(path)) < 2**22  # 16 MB of numbers
    found = inspect_torch_file(path)
    assert found["epoch"] == 3 and found["model"]["w"].size == (2000, 2000)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(10, 7, "f4").tobytes()) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        inspect_torch_file(path)


def test_a_value_that_contains_itself_is_refused(tmp_path):
    path = tmp_path / "loop.pdparams"
    loop: dict = {}
    loop["a"] = {"b": loop}
    path.write_bytes(pickle.dumps(loop, 2))
    assert "contains itself" in refused(path)


def test_shared_values_cost_no_more_than_one(tmp_path):
    path = tmp_path / "laughs.pdparams"
    value: tuple = ()
    for _ in range(200):
        value = (value, value, value)
    path.write_bytes(pickle.dumps({"x": value}, 2))
    assert isinstance(load_torch_file(path)["x"], tuple)


@pytest.mark.parametrize("value", [np.array(["a"], dtype=object), np.array(["text"])])
def test_arrays_of_objects_or_text_are_refused(tmp_path, value):
    path = tmp_path / "objects.pdparams"
    path.write_bytes(pickle.dumps({"x": value}, 2))
    assert "dtype" in refused(path)


@pytest.mark.parametrize("content", [b"", b"not a weights file", b"\x80\x02]."])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "readme.pth"
    path.write_bytes(content)
    assert "expected a" in refused(path)


def test_a_zip_of_something_else_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "images.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"")
    assert "data.pkl" in refused(path)
    assert "no such file" in refused(tmp_path / "none.pth")
