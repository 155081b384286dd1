# SPDX-License-Identifier: Apache-2.0
"""Reading an exported folder: damaged, foreign and mismatched ones are refused by name."""

from __future__ import annotations

import json
import sys

import numpy as np
import paddle
import pytest
from export_models import needs_onnx, student, tokenizer

from beitv2_core import __version__
from beitv2_core.errors import ConfigError, ExportError, MissingDependencyError, ShapeError
from beitv2_core.evaluation.codes import TIE_TOLERANCE, encode
from beitv2_core.exported_model import Description, Exported, is_exported, load_exported
from beitv2_core.exporting import export_model, exportable_features, exportable_tokenizer
from beitv2_core.files.hashing import sha256_of


@pytest.fixture
def folder(tmp_path):
    export_model(exportable_features(student()), tmp_path / "model", form="paddle")
    return tmp_path / "model"


def test_a_run_folder_is_no_exported_model(folder, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    assert is_exported(folder) and not is_exported(tmp_path / "run") and not is_exported(tmp_path / "nowhere")
    with pytest.raises(ExportError, match=r"model\.json: cannot be read"):
        load_exported(tmp_path / "run")


@pytest.mark.parametrize("pattern", ["graph.pdiparams", "graph.*model", "graph.json"])
def test_a_changed_or_missing_file_is_named(folder, pattern):
    for path in folder.glob(pattern):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ExportError, match=rf"{path.name}: not the file that was exported"):
            load_exported(folder)
        path.unlink()
        with pytest.raises(ExportError, match=rf"{path.name}: missing"):
            load_exported(folder)


@pytest.mark.parametrize("change", [lambda text: text[:40], lambda text: text.replace('"features"', '""'),
                                    lambda text: text.replace('"schema_version": 1', '"schema_version": 2')
                                    .replace('"schema_version":1', '"schema_version":2')])
def test_a_description_that_cannot_be_read_is_named(folder, change):
    path = folder / "model.json"
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    with pytest.raises(ExportError, match=r"model\.json: not a description"):
        load_exported(folder)


def test_an_entry_of_a_newer_version_is_named_with_both_versions_and_one_it_lacks_has_its_default(folder):
    path = folder / "model.json"
    described = json.loads(path.read_text())
    del described["exif_orientation"]
    path.write_text(json.dumps(described))
    assert load_exported(folder).description.exif_orientation is False
    described["versions"]["beitv2_core"] = "9.1.0"
    path.write_text(json.dumps({**described, "registers": 4}))
    expected = rf"model\.json: registers: .*beitv2-core {__version__} does not know.*9\.1\.0"
    with pytest.raises(ExportError, match=expected):
        load_exported(folder)


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2.6 ends the process on such a file")
def test_a_graph_the_runner_cannot_load_is_an_error_that_names_the_versions(folder):
    (path,) = [path for path in folder.iterdir() if path.suffix in (".pdmodel", ".json") and path.stem == "graph"]
    path.write_text("{}")
    known = json.loads((folder / "model.json").read_text())
    known["files"][path.name] = sha256_of(path)
    (folder / "model.json").write_text(json.dumps(known))
    with pytest.raises(ExportError, match=r"cannot be loaded.*It was written by beitv2_core"):
        load_exported(folder)


def test_a_graph_that_is_not_listed_is_refused(folder):
    known = json.loads((folder / "model.json").read_text())
    known["files"] = {}
    (folder / "model.json").write_text(json.dumps(known))
    with pytest.raises(ExportError, match=r"does not list graph\.\w+ with its SHA-256"):
        load_exported(folder)


def test_another_kind_device_shape_or_type_is_refused(folder):
    with pytest.raises(ExportError, match="an exported features; a tokenizer was expected"):
        load_exported(folder, kind="tokenizer")
    with pytest.raises(ConfigError, match="built for the CPU"):
        load_exported(folder, device="gpu")
    with pytest.raises(ConfigError, match="expected 'cpu' or 'gpu'"):
        load_exported(folder, device="tpu")
    model = load_exported(folder, threads=1)
    for images in (np.zeros((1, 3, 24, 32), np.float32), np.zeros((3, 32, 24), np.float32), np.zeros((1, 3, 32, 24))):
        with pytest.raises(ShapeError, match=r"expected float32 of shape \(images, 3, 32, 24\)"):
            model.run(images)
    with pytest.raises(ConfigError, match="a features has no num_codes"):
        _ = model.num_codes


@needs_onnx
def test_a_graph_for_images_of_another_size_than_described_is_named(tmp_path):
    folder = tmp_path / "model"
    export_model(exportable_features(student()), folder, form="onnx")
    description = json.loads((folder / "model.json").read_text())
    height, width = description["image_size"]
    (folder / "model.json").write_text(json.dumps({**description, "image_size": [height, 2 * width]}))
    with pytest.raises(ExportError, match=rf"model\.json: image_size is \[{height}, {2 * width}\], graph\.onnx takes"):
        load_exported(folder)


@needs_onnx
def test_without_onnxruntime_the_command_to_type_is_named(tmp_path, monkeypatch):
    export_model(exportable_features(student()), tmp_path / "model", form="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        load_exported(tmp_path / "model")


def test_one_export_has_one_fingerprint_and_another_model_another(tmp_path):
    model = tokenizer()
    export_model(exportable_tokenizer(model), tmp_path / "a", form="paddle")
    model.quantize.codebook.set_value(-model.quantize.codebook)
    export_model(exportable_tokenizer(model), tmp_path / "b", form="paddle")
    prints = [load_exported(tmp_path / name).fingerprint() for name in ("a", "a", "b")]
    assert prints[0] == prints[1] != prints[2]


def test_a_image_on_the_edge_between_codes_gets_those_it_has_alone():
    """Codes of an exported tokenizer that change with the batch do so only where its gaps say so, and are redone."""
    def run(images):
        alone = len(images) == 1
        gaps = np.where(images[:, 0, 0, 0] > 0.5, TIE_TOLERANCE / 2, 1.0)
        return [np.full((len(images), 4), 1 if alone else 2), gaps]

    known = Description(kind="tokenizer", format="onnx", image_size=(8, 8), crop_share=1.0, outputs=("codes", "gaps"))
    images = np.zeros((3, 3, 8, 8), np.float32)
    images[1] = 1
    assert encode(Exported(None, known, run), images)[:, 0].tolist() == [2, 1, 2]
    assert encode(Exported(None, known, run), images[:1])[:, 0].tolist() == [1]
