# SPDX-License-Identifier: Apache-2.0
"""The table of the neighbours says of a cell what its tests said, and names only tests that exist."""

from __future__ import annotations

import ast
import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def matrix():
    sys.path.insert(0, str(HERE))
    try:
        spec = importlib.util.spec_from_file_location("matrix_of_neighbours", HERE / "matrix.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(HERE))


def test_every_cell_names_tests_that_exist_and_every_direction_is_known(matrix):
    for cell in matrix.CELLS:
        assert cell.neighbour in matrix.NEIGHBOURS and cell.direction in matrix.DIRECTIONS["english"]
        assert cell.environment in ("ours", "paddlex", "peers") and cell.english and cell.chinese
        for test in cell.tests:
            file, _, name = test.split("[")[0].partition("::")
            names = {node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
                     if isinstance(node, ast.FunctionDef)}
            assert not name or name in names, test


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a.test_x" name="test_one[finetune-timm]"/>
<testcase classname="tests.a.test_x" name="test_one[finetune-huggingface]"><failure message="no">x</failure></testcase>
<testcase classname="tests.a.test_x" name="test_one_onnx_thing"/>
<testcase classname="tests.a.test_y" name="test_two"><skipped message="no moon"/></testcase>
<testcase classname="" name="tests.a.test_z"><error message="collection failure">x</error></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(("tests", "expected"), [
    (["tests/a/test_x.py::test_one[timm]"], ("passed", "1")),
    (["tests/a/test_x.py[onnx]"], ("passed", "1")),
    (["tests/a/test_x.py::test_one"], ("failed", "1")),
    (["tests/a/test_x.py"], ("failed", "1")),
    (["tests/a/test_x.py::test_one[timm]", "tests/a/test_y.py"], ("missing", "no moon")),
    (["tests/a/test_z.py"], ("failed", "1")),
    (["tests/a/test_x.py::test_one[timm]", "tests/a/test_q.py"], ("missing", "tests/a/test_q.py")),
])
def test_a_cell_is_green_only_if_all_of_its_tests_ran_and_passed(matrix, tests, expected):
    cases = matrix.cases_of(ElementTree.fromstring(REPORT))
    cell = matrix.CELLS[0]._replace(tests=tuple(tests), clone=False)
    assert tuple(matrix.result_of(cell, cases)) == expected


def test_a_cell_whose_clone_is_not_there_names_the_variable(matrix):
    cell = next(cell for cell in matrix.CELLS if cell.clone)
    assert tuple(matrix.result_of(cell, [], {})) == ("missing", matrix.CLONES[cell.neighbour])


def test_both_pages_have_the_rows_in_their_language(matrix, tmp_path):
    cells = matrix.CELLS[:2]
    results = [matrix.Result("passed", "3"), matrix.Result("missing", "no moon")]
    versions = {"ours": {"paddleclas": "2.6.0"}}
    clones = {"PaddleClas": "d178931"}
    english, chinese = (matrix.rows(cells, results, versions, clones, language) for language in ("english", "chinese"))
    assert len(english) == len(chinese) == 4 and english[2] != chinese[2]
    assert english[2].startswith("| PaddleClas | paddleclas 2.6.0 | in |") and english[2].endswith("| 3 passed |")
    assert english[3].endswith("| not run: no moon |")
    cloned = matrix.rows([cells[0]._replace(clone=True)], results, versions, clones, "english")
    assert cloned[2].startswith("| PaddleClas | clone d178931 | in |")
    page = tmp_path / "page.md"
    page.write_text(f"above\n{matrix.BEGIN}\nstale\n{matrix.END}\nbelow\n")
    matrix.write_table(page, english)
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "stale" not in text and english[3] in text
    with pytest.raises(SystemExit, match="begin: table"):
        matrix.write_table(HERE / "cells.py", english)
