"""A pytest plugin: write which test files were collected, and how many tests of each, as JSON to $COLLECTED."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

FOUND: dict[str, int] = {}


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.nodeid.endswith(".py"):  # a module that is skipped as a whole was collected, and says why
        FOUND[report.nodeid] = FOUND.get(report.nodeid, 0) + (1 if report.skipped else len(report.result))


def pytest_sessionfinish() -> None:
    Path(os.environ["COLLECTED"]).write_text(json.dumps(FOUND), encoding="utf-8")
