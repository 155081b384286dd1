# SPDX-License-Identifier: Apache-2.0
"""What docs/reproduce.md says a run costs is what `beitv2 plan` prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from beitv2_core import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| [^|]+ \| `(configs/[^`]+ --devices [^`]+)` \| (.+) \|$", TEXT, re.MULTILINE)
SHOWN = re.findall(r"^\$ beitv2 plan (.+)\n((?:.+\n)+?)```", TEXT, re.MULTILINE)


def printed(arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["plan", *arguments.split()])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(("arguments", "cells"), ROWS, ids=[row[0].split()[0] for row in ROWS])
def test_every_number_of_a_row_is_printed_by_its_command(monkeypatch, arguments, cells):
    monkeypatch.chdir(ROOT)
    words = set(printed(arguments).replace(", ", " ").split())
    numbers = cells.replace(" / ", " | ").split(" | ")
    assert len(numbers) == 8
    assert set(numbers) <= words


def test_the_output_shown_is_the_output(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(SHOWN) == 1
    for arguments, output in SHOWN:
        assert printed(arguments) == output
