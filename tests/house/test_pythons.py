# SPDX-License-Identifier: Apache-2.0
"""`make pythons`: what it makes of results, and that the pages hold the table of the results that are kept."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("pythons", ROOT / "tests/house/pythons.py")
pythons = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pythons)
PASSED = {"python": "3.10.13", "paddle": "3.3.1", "core": "smoke", "commit": "abc1234", "result": "passed",
          "passed": 312, "numpy": "2.2.6"}
MISSING = {"python": "3.9.18", "paddle": "3.3.1", "core": "smoke", "commit": "abc1234", "result": pythons.NO_WHEEL}


@pytest.mark.parametrize("page", pythons.PAGES, ids=lambda path: path.parent.name)
def test_the_page_holds_the_results_that_are_kept(page):
    results = json.loads(pythons.RESULTS.read_text(encoding="utf-8"))
    assert pythons.BEGIN + pythons.table(results, "zh" in page.parts) + pythons.END in page.read_text(encoding="utf-8")


def test_nothing_that_was_tried_failed():
    results = json.loads(pythons.RESULTS.read_text(encoding="utf-8"))
    assert results and {one["result"] for one in results} <= {"passed", pythons.NO_WHEEL}


def test_rows_are_in_the_order_of_versions_and_say_what_failed():
    failed = {**PASSED, "python": "3.9.18", "paddle": "2.6.2", "result": "failed", "failed": 2}
    text = pythons.table([PASSED, MISSING, failed])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| 3")]
    assert [row[0] for row in rows] == ["| 3.9.18", "| 3.10.13", "| 3.11", "| 3.12", "| 3.13"]
    assert set(rows[2][1:]) == {"not tried yet", "not tried yet |"}
    assert "failed: 312 (smoke, 2 failed, numpy 2.2.6)" in rows[0][1] and "no wheel" in rows[0][3]
    assert "Commit abc1234." in text and "没有 wheel" in pythons.table([MISSING], chinese=True)


def test_a_pair_that_is_run_again_takes_the_place_of_its_old_result(tmp_path, monkeypatch):
    monkeypatch.setattr(pythons, "RESULTS", tmp_path / "pythons.json")
    for result in (PASSED, {**PASSED, "core": "full"}, {**PASSED, "python": "3.10.14", "passed": 400}):
        pythons.keep(result)
    kept = json.loads(pythons.RESULTS.read_text())
    assert [(one["core"], one["passed"]) for one in kept] == [("full", 312), ("smoke", 400)]


def test_what_pytest_printed_is_counted():
    found = pythons.ended("FAILED tests/core/test_cli.py::test_a - x\n1 failed, 20 passed, 3 skipped in 4s\n", 1)
    assert (found["failed"], found["passed"], found["skipped"]) == (1, 20, 3)
    assert found["result"] == "failed" and found["note"] == "tests/core/test_cli.py::test_a"
    assert pythons.ended("", 2)["result"] == "failed" and pythons.ended("no tests ran", 0)["result"] == "failed"


def test_an_index_that_was_not_reached_is_not_taken_for_a_missing_wheel():
    found = "ERROR: No matching distribution found for paddlepaddle==3.3.1\n"
    at_hand = "ERROR: Could not find a version that satisfies the requirement paddlepaddle==3.3.1 (from versions: {})\n"
    assert pythons.refused(at_hand.format("2.5.2, 2.6.2") + found)["result"] == pythons.NO_WHEEL
    assert pythons.refused(at_hand.format("none") + found)["result"] == "not installed"
    assert pythons.refused("ERROR: no space left\n") == {"result": "not installed", "note": "ERROR: no space left"}
    with pytest.raises(SystemExit, match="python9.9: there is no such interpreter"):
        pythons.tried("python9.9", "3.3.1", "smoke")


def test_the_smoke_tests_are_there():
    assert all((ROOT / one).exists() for one in pythons.SMOKE)
