# SPDX-License-Identifier: Apache-2.0
"""An exported model gives the live model's answers, or is not written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from export_models import FORMS, left_over, needs_onnx, student, tokenizer, without_paddle
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.assembly import build_mim
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import load_config
from beitv2_core.data import DigitScenes
from beitv2_core.data.views.transforms import normalise
from beitv2_core.errors import BEiTError, ConfigError, ExportError, MissingDependencyError
from beitv2_core.exported_model import load_exported
from beitv2_core.exporting import export_model, exportable_features, exportable_tokenizer, find_exportable
from beitv2_core.exporting import onnx as onnx_module

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
runner = CliRunner()


def run(*arguments, code=0) -> str:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def tokenizer_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "run"
    run("init-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "-o", folder, "--set", "encoder.width=24",
        "decoder.width=24", "--teacher-width", "16")
    return folder


@pytest.fixture(scope="module")
def pretraining_run(tmp_path_factory, tokenizer_run):
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    settings = load_config(CONFIGS / "pretrain/digit_scenes.yml",
                           ["model.width=24", f"tokenizer.weights={tokenizer_run}", f"output={folder}"])
    model = build_mim(settings.model, image_size=settings.data.image_size, num_codes=64)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    CheckpointStore(folder / "checkpoints").save(0, weights, {}, {}, settings.resolved())
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    scenes = DigitScenes("test", size=5, image_size=40)
    for index in range(5):
        scenes.load(index).image.save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_tokenizer_gives_the_codes_of_the_run_at_any_batch_size(tokenizer_run, images, tmp_path, form):
    shown = run("export", tokenizer_run, "--format", form, "-o", tmp_path / "model")
    assert "codes 0 unequal" in shown and "batch 1" in shown and "batch 3" in shown
    for batch_size in (1, 2, 5):
        for name, source in (("live", tokenizer_run), ("exported", tmp_path / "model")):
            run("tokenize", images, "-t", source, "-o", tmp_path / f"{name}.npz", "-b", batch_size)
        live, exported = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("live", "exported"))
        assert live.keys() == exported.keys()
        for key, value in live.items():
            if key != "runtime":
                np.testing.assert_array_equal(exported[key], value)
        assert live["precision"] == "f32" and live["runtime"] == "paddle"
        assert exported["runtime"] == {"paddle": "paddle.inference", "onnx": "onnxruntime"}[form]
    assert left_over(tmp_path) == ["exported.npz", "live.npz", "model"]


@needs_onnx
def test_an_onnx_tokenizer_needs_no_paddle(tokenizer_run, images, tmp_path):
    run("export", tokenizer_run, "--format", "onnx", "-o", tmp_path / "model")
    run("tokenize", images, "-t", tokenizer_run, "-o", tmp_path / "live.npz")
    said = subprocess.run(without_paddle(["tokenize", str(images), "-t", str(tmp_path / "model"), "-o",
                                          str(tmp_path / "out.npz")]), capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["codes"], np.load(tmp_path / "live.npz")["codes"])


def test_without_paddle_a_run_still_says_what_is_missing(tokenizer_run, images, tmp_path):
    said = subprocess.run(without_paddle(["tokenize", str(images), "-t", str(tokenizer_run), "-o",
                                          str(tmp_path / "out.npz")]), capture_output=True, text=True, check=False)
    assert said.returncode == 2 and "Paddle is not installed" in said.stderr


@pytest.mark.parametrize("form", FORMS)
def test_features_of_a_pretraining_run(pretraining_run, form):
    shown = run("export", pretraining_run, "--format", form)
    folder = pretraining_run / "exported" / f"features_{form}"
    assert str(folder) in shown
    model = load_exported(folder)
    assert (model.kind, model.grid, model.image_size) == ("features", (4, 4), (32, 32))
    backbone = find_exportable(str(pretraining_run)).live
    images = np.random.default_rng(5).random((2, 3, 32, 32), dtype=np.float32)
    expected, got = backbone(paddle.to_tensor(normalise(images))), model.run(images)
    assert got["mean"].shape == (2, 24) and got["patches"].shape == (2, 16, 24)
    for name in ("mean", "patches"):
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)
    np.testing.assert_allclose(got["mean"], got["patches"].mean(1), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_rectangular_images_and_other_batches_than_the_checked_ones(tmp_path, form):
    model = tokenizer((32, 24))
    description = export_model(exportable_tokenizer(model), tmp_path / "model", form=form)
    assert description.image_size == (32, 24) and description.grid == (4, 3)
    images = np.random.default_rng(5).random((7, 3, 32, 24), dtype=np.float32)
    found = load_exported(tmp_path / "model").run(images)
    np.testing.assert_array_equal(found["codes"], model.tokenize(paddle.to_tensor(images)).numpy())
    assert found["gaps"].shape == (7,)


def test_the_decoder_is_not_in_the_file(tmp_path):
    model = tokenizer()
    export_model(exportable_tokenizer(model), tmp_path / "model", form="paddle")
    needed = [tensor for part in (model.encoder, model.encode_task_layer) for tensor in part.state_dict().values()]
    size = sum(int(tensor.size) * 4 for tensor in needed) + 64 * 9 * 4
    assert size <= (tmp_path / "model/graph.pdiparams").stat().st_size < size + 6000


def broken(exportable, name, change):
    def live(images):
        found = exportable.live(images)
        return {**found, name: change(found[name])}

    return exportable._replace(live=live)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "change", "said"), [
    ("patches", lambda value: value + np.float32(1.1e-4), r"0\.00011\d* \(patches, batch 1"),
    ("mean", lambda value: value * np.float32("nan"), r"nan \(mean, batch 3"),
    ("patches", lambda value: value[:, 1:], r"gives shape \(1, 12, 24\), the live model \(1, 11, 24\)"),
])
def test_other_numbers_than_the_live_models_are_not_written(tmp_path, form, name, change, said):
    with pytest.raises(ExportError, match=said):
        export_model(broken(exportable_features(student()), name, change), tmp_path / "model", form=form)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_single_other_code_is_not_written(tmp_path, form):
    def change(codes):
        codes = codes.copy()
        codes[0, 0] ^= 1
        return codes

    with pytest.raises(ExportError, match=r"not written.*1 \(codes, batch 1"):
        export_model(broken(exportable_tokenizer(tokenizer()), "codes", change), tmp_path / "model", form=form)
    assert left_over(tmp_path) == []


def test_a_difference_just_within_the_limit_is_written_down(tmp_path):
    model = broken(exportable_features(student()), "mean", lambda value: value + np.float32(9e-5))
    description = export_model(model, tmp_path / "model", form="paddle")
    written = json.loads((tmp_path / "model/model.json").read_text())["differences"]
    assert set(written) == {"paddle.jit.load", "paddle.inference"}
    for sizes in written.values():
        assert sizes["1"]["mean"] == pytest.approx(9e-5, abs=1e-6) and sizes["1"]["patches"] < 1e-5
    assert load_exported(tmp_path / "model").description == description


def test_a_codebook_whose_codes_are_the_same_is_refused(tmp_path):
    model = tokenizer()
    model.quantize.codebook.set_value(paddle.ones_like(model.quantize.codebook) / 8**0.5)
    with pytest.raises(ExportError, match="0 have codes that do not depend on rounding"):
        export_model(exportable_tokenizer(model), tmp_path / "model", form="paddle")
    assert left_over(tmp_path) == []


def test_the_layers_have_their_own_methods_again_after_an_export(tmp_path):
    model = tokenizer()
    before = {name: layer.forward.__func__ for name, layer in model.named_sublayers()}
    export_model(exportable_tokenizer(model), tmp_path / "model", form="paddle")
    assert {name: layer.forward.__func__ for name, layer in model.named_sublayers()} == before


def test_what_is_there_already_is_not_overwritten(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="model: already there"):
        export_model(exportable_features(student()), tmp_path / "model", form="paddle")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        export_model(exportable_features(student()), tmp_path / "file/model", form="paddle")


@needs_onnx
def test_the_onnx_file_has_opset_17_names_and_a_free_batch(tmp_path):
    import onnx

    export_model(exportable_tokenizer(tokenizer()), tmp_path / "model", form="onnx")
    assert left_over(tmp_path / "model") == ["graph.onnx", "model.json"]
    model = onnx.load(tmp_path / "model/graph.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [17]
    ends = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)}
    assert ends == {"images": ["batch", 3, 32, 24], "codes": ["batch", 12], "gaps": ["batch"]}


@needs_onnx
@pytest.mark.parametrize("make", [lambda: exportable_tokenizer(tokenizer()), lambda: exportable_features(student())])
def test_the_onnx_file_holds_only_what_an_output_depends_on_and_loads_without_a_warning(tmp_path, capfd, make):
    import onnx
    import onnxruntime

    export_model(make(), tmp_path / "model", form="onnx")
    graph = onnx.load(tmp_path / "model/graph.onnx").graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert {constant.name for constant in graph.initializer} <= read
    assert not [node.name for node in graph.node if not read & set(node.output)]
    capfd.readouterr()
    onnxruntime.InferenceSession(str(tmp_path / "model/graph.onnx"), providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""


@needs_onnx
def test_exporting_starts_no_process_and_installs_nothing(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for name in ("system", "popen", "posix_spawn", "execv", "execve", "fork"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.delenv("POLYGRAPHY_AUTOINSTALL_DEPS", raising=False)
    export_model(exportable_features(student()), tmp_path / "model", form="onnx")
    assert "POLYGRAPHY_AUTOINSTALL_DEPS" not in os.environ
    assert "polygraphy" not in sys.modules


def test_onnx_on_paddle_2_and_without_its_packages_is_refused_by_name(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(onnx_module.paddle, "__version__", "2.6.2")
        with pytest.raises(ConfigError, match="paddle2onnx needs Paddle 3, this is 2.6.2"):
            export_model(exportable_features(student()), tmp_path / "model", form="onnx")
    monkeypatch.setattr(onnx_module.paddle, "__version__", "3.3.1")
    monkeypatch.setitem(sys.modules, "paddle2onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'beitv2-core\[onnx\]'"):
        export_model(exportable_features(student()), tmp_path / "model", form="onnx")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(("which", "options", "said"), [
    ("tokenizer_run", ["--kind", "features"], "features is for pretraining and fine-tuning"),
    ("tokenizer_run", ["--kind", "classifier"], "this 'tokenizer' run gives tokenizer.$"),
    ("pretraining_run", ["--kind", "tokenizer"], "this 'pretrain' run gives features.$"),
    ("tokenizer_run", ["--format", "torch"], "expected paddle, paddlex, onnx"),
])
def test_what_cannot_be_exported_is_named(request, tmp_path, which, options, said):
    arguments = ["export", request.getfixturevalue(which), "-o", tmp_path / "model", "--format", "paddle", *options]
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    with pytest.raises(BEiTError, match=said):
        if "--kind" in options:
            find_exportable(str(request.getfixturevalue(which)), kind=options[1])
        else:
            export_model(exportable_features(student()), tmp_path / "model", form=options[1])
    assert left_over(tmp_path) == []
