# SPDX-License-Identifier: Apache-2.0
"""`beitv2 bench`: every runtime and precision in a row, or the reason why it is not there."""

from __future__ import annotations

import json
import os

import pytest
from export_models import needs_onnx, student, tokenizer
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.bench.measure import Measured, measure
from beitv2_core.bench.rows import NOT_CALIBRATED, Row, peak_memory, rows_of_run
from beitv2_core.bench.table import as_json, lines
from beitv2_core.errors import ConfigError
from beitv2_core.exporting import export_model, exportable_features, exportable_tokenizer
from beitv2_core.exporting.inputs import drawn_image
from beitv2_core.layers.fast.products import why_not

runner = CliRunner()


def test_an_export_is_measured_in_processes_of_its_own(tmp_path):
    export_model(exportable_features(student()), tmp_path / "model", form="paddle")
    result = runner.invoke(cli.app, ["bench", str(tmp_path / "model"), "-n", "3", "-b", "2", "--rounds", "2",
                                     "--threads", "1", "-o", str(tmp_path / "found")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "features, 32 x 24, batch 2, 1 thread(s), best of 2" in result.output
    known = json.loads((tmp_path / "found/bench.json").read_text())
    (row,) = known["rows"]
    assert (row["runtime"], row["precision"], known["images"]) == ("paddle.inference", "f32", 3)
    assert len(row["seconds"]) == 2 and row["images_per_second"] == pytest.approx(2 / min(row["seconds"]))
    assert row["peak_memory_bytes"] > 2e7 and row["agreement"] is None
    assert (tmp_path / "found/bench.png").stat().st_size > 1000


@needs_onnx
def test_rows_are_compared_with_the_first_and_say_why_they_are_not_there(tmp_path):
    for form in ("paddle", "onnx"):
        export_model(exportable_tokenizer(tokenizer()), tmp_path / form, form=form)
    rows = [Row("paddle.inference", "f32", str(tmp_path / "paddle")), Row("onnxruntime", "f32", str(tmp_path / "onnx")),
            Row("openvino", "int8", str(tmp_path / "onnx")), Row("onnxruntime", "f32", "", missing="told before")]
    facts = exportable_tokenizer(tokenizer()).facts
    found = measure(rows, drawn_image(facts, 0), batch_size=8, rounds=1, threads=1)
    assert [one.row for one in found] == rows and found[0].agreement is None
    assert found[1].agreement is not None and found[1].agreement["codes_equal"] == 1.0
    assert found[2].missing is not None and "--quantize int8" in found[2].missing
    assert found[3].missing == "told before"
    shown = lines(found)
    assert "codes equal 100.00 %" in shown[2] and shown[4].endswith("told before")
    assert as_json(found, {"kind": "tokenizer"})["rows"][3] == {"runtime": "onnxruntime", "precision": "f32",
                                                                "missing": "told before"}


def test_a_form_that_could_not_be_written_is_a_row_with_the_reason():
    rows = rows_of_run("runs/1", None, None, {"onnx": ConfigError("no paddle2onnx")})
    assert [(row.runtime, row.precision) for row in rows] == [
        ("paddle, live", "f32"), ("paddle, live", "bf16"), ("onnxruntime", "f32"), ("openvino", "f32")]
    assert (rows[1].missing is None) == (why_not("bf16") is None)
    assert rows[0].missing is None and [row.missing for row in rows[2:]] == ["no paddle2onnx"] * 2
    assert lines([Measured(row, row.missing or "x") for row in rows])[3].endswith("no paddle2onnx")


@needs_onnx
def test_eight_bits_of_a_run_without_images_to_calibrate_are_a_row_that_says_what_to_give(tmp_path):
    export_model(exportable_tokenizer(tokenizer()), tmp_path / "onnx", form="onnx")
    rows = rows_of_run("runs/1", None, None, {"onnx": tmp_path / "onnx"})
    assert {row.precision: row.missing for row in rows if row.runtime == "openvino"} == {
        "f32": None, "bf16": None, "int8": NOT_CALIBRATED}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc/self/status here")
def test_peak_memory_grows_with_what_is_allocated():
    before = peak_memory()
    held = bytearray(300_000_000)
    assert peak_memory() >= before and peak_memory() > len(held) / 2
