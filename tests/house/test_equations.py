# SPDX-License-Identifier: Apache-2.0
"""Every equation, section and figure that the code names is in docs/paper.md, which pins the version of the paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAPER = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
FILES = sorted(path for pattern in ("packages/*/src/**/*.py", "docs/*.md", "benchmarks/**/*.py")
               for path in ROOT.glob(pattern))
EQUATION = re.compile(r"\b(?:Eq|Eqs|Equation|Equations)\.?\s*\(?(\d+)\)?(.{0,3}\d+\b)?")
PLACE = re.compile(r"\bpaper(?:'s)?,? (section \d(?:\.\d)?|figure \d+)")


def named(text: str) -> set[str]:
    """The equations, sections and figures of the paper that a text names, as docs/paper.md writes them."""
    return {f"Eq. {found.group(1)}" for found in EQUATION.finditer(text)} | {
        found.group(1) for found in PLACE.finditer(text)}


def test_the_version_of_the_paper_is_pinned():
    assert re.search(r"arXiv 2208\.06366v\d+\]\(https://arxiv\.org/abs/2208\.06366v\d+\)", PAPER)


@pytest.mark.parametrize("path", [path for path in FILES if named(path.read_text(encoding="utf-8"))],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_code_names_is_in_the_table(path):
    cells = [line.split(" | ")[0] for line in PAPER.splitlines() if line.startswith("| ")]
    for name in named(path.read_text(encoding="utf-8")):
        assert any(re.search(rf"\b{re.escape(name)}\b", cell) for cell in cells), f"docs/paper.md has no row for {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_equations_are_named_one_by_one(path):
    """`Eq. 1 and Eq. 2`, not `Eqs. 1-2` or `Eq. (1)`: so that a search finds all of them."""
    for found in EQUATION.finditer(path.read_text(encoding="utf-8")):
        assert found.group(0).startswith(f"Eq. {found.group(1)}"), found.group(0)
        assert not re.match(r"\s?[-–,]\s?\d", found.group(2) or ""), found.group(0)


@pytest.mark.parametrize(("text", "names"), [("Source: paper Eq. 1 and Eq. 2;", {"Eq. 1", "Eq. 2"}),
                                             ("paper section 2.3, Eq. 3", {"section 2.3", "Eq. 3"}),
                                             ("(paper, figure 3)", {"figure 3"}), ("Equation (4)", {"Eq. 4"}),
                                             ("Eq is not equal", set())])
def test_what_a_text_names_is_found(text, names):
    assert named(text) == names
