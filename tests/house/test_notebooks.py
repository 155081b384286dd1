# SPDX-License-Identifier: Apache-2.0
"""Notebooks in git hold cells alone, link to what exists, and are named in the documents; tests/e2e runs them."""

from __future__ import annotations

import ast
import json
import re

import pytest
from docs_pages import NOTEBOOKS, ROOT, cells, headings

#: what a cell may hold, as Jupyter writes it (nbformat 4.5)
KEYS = {"code": {"cell_type", "execution_count", "id", "metadata", "outputs", "source"},
        "markdown": {"cell_type", "id", "metadata", "source"}}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3


@each_notebook
def test_a_notebook_holds_no_outputs_and_no_counts(path):
    """To repair: `jupyter nbconvert --clear-output --inplace FILE`."""
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}
    assert set(book["metadata"]["language_info"]) == {"name"}  # no version of somebody's Python
    ids = [cell["id"] for cell in book["cells"]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]{1,64}", one) for one in ids)
    for cell in book["cells"]:
        assert set(cell) == KEYS[cell["cell_type"]] and cell["metadata"] == {}, cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]


@each_notebook
def test_a_notebook_is_written_as_jupyter_writes_it(path):
    """So that a change of one line is one line of a diff."""
    text = path.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


@each_notebook
def test_the_links_of_a_notebook_lead_somewhere(path):
    found = [one for _, text in cells(path, "markdown") for one in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", text)]
    assert found
    for target, anchor in found:
        other = path.parent / target
        assert other.is_file(), f"{path.name} links to {target}"
        if anchor:
            assert anchor in [one for _, one in headings(other.read_text(encoding="utf-8"))], f"{target}#{anchor}"


@each_notebook
def test_code_cells_are_plain_python_and_have_text_between_them(path):
    """Plain Python, without magic commands: tests/e2e/test_notebooks.py runs it without a kernel."""
    for name, text in cells(path, "code"):
        ast.parse(text, f"{path.name}, cell {name}")
    assert len(cells(path, "markdown")) >= len(cells(path, "code")) * 2 / 3


@each_notebook
def test_images_of_a_users_own_are_one_line(path):
    text = "\n".join(text for _, text in cells(path, "code"))
    assert len(re.findall(r"^IMAGES = ", text, re.MULTILINE)) == 1
    assert dict(cells(path, "code"))["images"].startswith("IMAGES = ")


def test_every_notebook_trains_the_run_that_the_others_read():
    """A run is read again only where images and settings are the same."""
    found = {dict(cells(path, "code"))["train"].replace('f"{IMAGES}/train"', "IMAGES") for path in NOTEBOOKS}
    drawn = {dict(cells(path, "code"))["draw"] for path in NOTEBOOKS}
    assert len(found) == 1 and len(drawn) == 1
    places = {dict(cells(path, "code"))["images"] for path in NOTEBOOKS}
    assert places == {'IMAGES = "digits/train"', 'IMAGES = "digits"'}


@pytest.mark.parametrize("page", ["docs/notebooks.md", "docs/zh/notebooks.md"])
def test_every_notebook_is_named_in_the_page_of_notebooks(page):
    linked = re.findall(r"\]\((\S+\.ipynb)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert {((ROOT / page).parent / one).resolve() for one in linked} == set(NOTEBOOKS)
