# SPDX-License-Identifier: Apache-2.0
"""Eight-bit products: written with their measured agreement, or refused with what is missing."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from export_models import left_over, needs_onnx, student, tokenizer
from PIL import Image

from beitv2_core.errors import ConfigError, MissingDependencyError
from beitv2_core.exported_model import load_exported
from beitv2_core.exporting import Calibration, export_model, exportable_features, exportable_tokenizer
from beitv2_core.exporting.agreement import agreement, in_words, too_far

missing = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
needs_nncf = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(12):
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((30, 40), Image.Resampling.BICUBIC).save(folder / f"{seed:02d}.png")
    return folder


@needs_onnx
@needs_nncf
@pytest.mark.parametrize(("make", "measure", "least"), [
    (lambda: exportable_tokenizer(tokenizer()), "codes_equal", 0.8),
    (lambda: exportable_features(student()), "cosine", 0.99)])
def test_int8_is_beside_float32_with_its_measured_agreement(tmp_path, images, make, measure, least, caplog):
    written = export_model(make(), tmp_path / "model", form="onnx", calibration=Calibration(images, 4))
    assert left_over(tmp_path / "model") == ["graph.onnx", "graph_int8.bin", "graph_int8.xml", "model.json"]
    assert written.int8 is not None and (written.int8.calibrated_on, written.int8.measured_on) == (4, 4)
    assert least < written.int8.agreement[measure] <= 1 and written.int8.agreement["largest_difference"] > 0
    exact, eight = load_exported(tmp_path / "model"), load_exported(tmp_path / "model", precision="int8")
    assert (eight.runtime, eight.precision, eight.description) == ("openvino", "int8", written)
    assert exact.fingerprint() != eight.fingerprint()
    assert caplog.handler.level == 0  # what listens to the program's log still hears it
    tried = np.random.default_rng(0).random((3, 3, 32, 24), dtype=np.float32)
    found, expected = eight.run(tried), exact.run(tried)
    assert found.keys() == expected.keys()
    assert [value.shape for value in found.values()] == [value.shape for value in expected.values()]


@needs_onnx
def test_an_export_without_int8_is_described_as_version_0_2_reads_it(tmp_path):
    export_model(exportable_features(student()), tmp_path / "model", form="onnx")
    assert "int8" not in json.loads((tmp_path / "model/model.json").read_text())


@needs_onnx
@needs_nncf
def test_one_image_is_too_few(tmp_path, images):
    with pytest.raises(ConfigError, match="--calibrate .*1 image; expected at least 2"):
        export_model(exportable_features(student()), tmp_path / "model", form="onnx",
                     calibration=Calibration(images / "00.png"))
    assert left_over(tmp_path) == ["images"]


@needs_onnx
def test_without_nncf_or_for_a_paddle_graph_nothing_is_written(tmp_path, images, monkeypatch):
    with pytest.raises(ConfigError, match="of ONNX graphs, this is --format paddle"):
        export_model(exportable_features(student()), tmp_path / "model", form="paddle",
                     calibration=Calibration(images))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'beitv2-core\[int8\]'"):
        export_model(exportable_features(student()), tmp_path / "model", form="onnx", calibration=Calibration(images))
    assert left_over(tmp_path) == ["images"]


def test_agreement_counts_what_a_kind_answers():
    one = np.eye(4, dtype=np.float32)
    other = one.copy()
    other[3] = [0, 2, 0, 0]
    found = agreement({"logits": other}, {"logits": one})
    assert found == {"top1_equal": 0.75, "largest_difference": 2.0}
    codes = {"codes": np.array([[1, 2], [3, 4]]), "gaps": np.zeros(2, np.float32)}
    moved = {"codes": np.array([[1, 2], [3, 5]]), "gaps": np.array([0, 0.5], np.float32)}
    assert agreement(moved, codes) == {"codes_equal": 0.75, "largest_difference": 0.5}
    logits = np.zeros((1, 2, 2, 2), np.float32)
    logits[0, 1, 0] = 1  # the upper row is class 1
    wrong = logits.copy()
    wrong[0, 1, 0, 0] = -1
    found = agreement({"logits": wrong}, {"logits": logits})
    assert found["pixels_equal"] == 0.75 and found["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    found = agreement({"mean": one, "patches": one}, {"mean": -one, "patches": one})
    assert found["cosine"] == -1.0 and "-1.00000" in in_words(found)


def test_an_agreement_that_is_too_far_is_named():
    assert too_far({"codes_equal": 0.98, "largest_difference": 9.0}) == []
    assert too_far({"pixels_equal": 0.96, "miou": 0.883}) == [
        "mIoU of one's labels against the other's 88.30 % (expected at least 97 %)"]
