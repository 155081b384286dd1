# SPDX-License-Identifier: Apache-2.0
"""Runtimes and precisions of exported models: what exists runs, what does not is one line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from export_models import needs_onnx, student, tokenizer

from beitv2_core import runtime
from beitv2_core.commands.options import live_model
from beitv2_core.errors import ConfigError, MissingDependencyError
from beitv2_core.exported_model import load_exported
from beitv2_core.exporting import export_model, exportable_features, exportable_tokenizer
from beitv2_core.runners import RUNTIMES, choose

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="not installed: openvino")


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """A function that makes this processor one with these flags."""
    def make(flags: str) -> None:
        path = tmp_path / f"cpuinfo_{flags.replace(' ', '_')}"
        path.write_text(f"vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 {flags}\n")
        monkeypatch.setattr(runtime, "CPUINFO", str(path))

    return make


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "model"
    export_model(exportable_tokenizer(tokenizer()), folder, form="onnx")
    return folder


@pytest.mark.parametrize(("form", "name", "precision", "said"), [
    ("onnx", "torch", "f32", "--runtime torch: .*use onnxruntime or openvino"),
    ("onnx", "paddle.inference", "f32", "This is a graph in the form onnx: use onnxruntime or openvino"),
    ("paddle", "openvino", "f32", "This is a graph in the form paddle: use paddle.inference"),
    ("onnx", "onnxruntime", "bf16", "onnxruntime computes in f32; use --runtime openvino"),
    ("paddle", None, "int8", "paddle.inference computes in f32; export the model as ONNX"),
    ("onnx", "openvino", "fp16", "--precision fp16: .*expected one of f32, bf16, int8"),
])
def test_a_combination_that_does_not_exist_is_one_line_that_names_one_that_does(form, name, precision, said):
    with pytest.raises(ConfigError, match=said) as refused:
        choose(form, name, precision, where="model")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("flags", "able"), [("avx512f avx512_vnni", False), ("avx512f avx512_bf16", True),
                                             ("amx_tile amx_bf16", True)])
def test_bf16_needs_a_processor_with_bfloat16_units(processor, flags, able):
    processor(flags)
    if able:
        for asked in ("openvino", None):  # the only one that computes in it
            assert choose("onnx", asked, "bf16", where="model") is RUNTIMES["openvino"]
        return
    with pytest.raises(ConfigError, match="no bfloat16 units .*Use --precision f32"):
        choose("onnx", "openvino", "bf16", where="model")


def test_a_live_model_refuses_what_is_of_exported_ones_and_bf16_without_units(processor):
    processor("avx512f")
    for name, precision, said in (("openvino", "f32", "--runtime openvino: runs/1 is no exported model"),
                                  (None, "int8", "--precision int8: runs/1 is no exported model.*--calibrate FOLDER"),
                                  (None, "bf16", "does not multiply bfloat16"),
                                  (None, "fp8", "expected one of f32, bf16")):
        with pytest.raises(ConfigError, match=said), live_model("runs/1", runtime=name, precision=precision):
            pytest.fail("the block ran")
    with live_model("runs/1", runtime=None, precision="f32"):
        pass


class FakeOpenVINO:
    """Keeps what a model is compiled with."""

    def __init__(self) -> None:
        self.asked: list = []

    def Core(self) -> FakeOpenVINO:  # noqa: N802  OpenVINO's name
        return self

    def compile_model(self, path, device, options):
        self.asked.append((Path(path).name, device, options))
        return lambda images: SimpleNamespace(to_tuple=lambda: (images,))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@needs_onnx
def test_openvino_is_told_the_precision_also_where_it_is_f32(onnx_folder, processor, monkeypatch, precision):
    processor("avx512_bf16")
    fake = FakeOpenVINO()
    monkeypatch.setitem(sys.modules, "openvino", fake)
    model = load_exported(onnx_folder, runtime="openvino", precision=precision, threads=3)
    assert (model.runtime, model.precision) == ("openvino", precision)
    ((name, device, options),) = fake.asked
    assert (name, device) == ("graph.onnx", "CPU")
    assert options["INFERENCE_PRECISION_HINT"] == precision and options["INFERENCE_NUM_THREADS"] == 3
    with pytest.raises(ConfigError, match="OpenVINO is used on processors"):
        load_exported(onnx_folder, runtime="openvino", device="gpu")


@needs_onnx
def test_without_openvino_the_command_to_type_is_named(onnx_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'beitv2-core\[openvino\]'"):
        load_exported(onnx_folder, runtime="openvino")


@needs_onnx
def test_int8_of_an_export_without_it_says_how_to_make_it(onnx_folder):
    with pytest.raises(ConfigError, match=r"has no graph_int8.xml. Export again with --quantize int8 --calibrate"):
        load_exported(onnx_folder, precision="int8")


@needs_onnx
@needs_openvino
def test_openvino_gives_the_live_models_answers_at_any_batch_size(onnx_folder, tmp_path):
    export_model(exportable_features(student()), tmp_path / "features", form="onnx")
    for folder in (onnx_folder, tmp_path / "features"):
        one, other = load_exported(folder), load_exported(folder, runtime="openvino")
        for batch in (1, 4, 7):
            images = np.random.default_rng(batch).random((batch, 3, 32, 24), dtype=np.float32)
            expected, found = one.run(images), other.run(images)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert found[name].dtype == value.dtype
                np.testing.assert_allclose(found[name], value, atol=2e-5)
