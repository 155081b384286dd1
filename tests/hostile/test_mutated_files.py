# SPDX-License-Identifier: Apache-2.0
"""Each reader of files of others: a result or a named error for whatever comes, in bounded time and memory."""

from __future__ import annotations

import json

import pytest
from fuzzing import faults, reports_of, row_of
from parsers import PARSERS, WITH_PADDLE

pytest.importorskip("resource", reason="the memory limit needs a Unix")
FILES = 60
NEEDS = {"COCO": "pycocotools", "exports": "onnxruntime", "teachers": "onnxruntime", "label maps": "cv2"}


@pytest.mark.parametrize("parser", [
    pytest.param(name, marks=pytest.mark.slow) if name in WITH_PADDLE else name for name in PARSERS])
def test_hostile_files_end_in_a_result_or_an_error_that_names_them(parser, record_property):
    if parser in NEEDS:
        pytest.importorskip(NEEDS[parser], reason=f"{NEEDS[parser]} reads them and is not installed")
    reports = reports_of(parser, FILES)
    row = row_of(parser, reports)
    record_property("summary", json.dumps(row))
    assert not faults(reports), json.dumps(faults(reports)[:5], indent=1)
    assert row["times"] == FILES and row["read"] and row["refused by name"], row


def test_the_watch_sees_what_a_file_would_do(tmp_path):
    """A reader that executes what it reads leaves the marker; an error of another kind is a fault."""
    from fuzz_program import outcome
    from mutations import canary
    from seeds import Parser

    def read(path):
        import pickle

        pickle.loads(path.read_bytes())  # noqa: S301  what must not happen

    marker = tmp_path / "executed"
    (tmp_path / "input").write_bytes(canary(marker)[0])
    result, _ = outcome(Parser(read, list), tmp_path / "input", tmp_path)
    assert result == "read" and marker.exists()
    (tmp_path / "input").write_bytes(b"cut")
    assert outcome(Parser(read, list), tmp_path / "input", tmp_path)[0] == "crashed"
