# SPDX-License-Identifier: Apache-2.0
"""Names of tensors end in their shape, in the letters of one legend: the docstring of `layers/__init__.py`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "packages" / "beitv2-core" / "src" / "beitv2_core"
FILES = sorted(path for room in ("layers", "models", "engine/tasks") for path in (CORE / room).rglob("*.py"))
TEXT = ast.get_docstring(ast.parse((CORE / "layers" / "__init__.py").read_text(encoding="utf-8"))) or ""
LEGEND = re.findall(r"^    (\w)  \S", TEXT, re.MULTILINE)
#: arguments that go without a suffix, by the legend's last sentences
NAMED, ANY_SHAPE = TEXT.partition("go without:")[2].partition("`")[0].split("any shape:")
WITHOUT = set(re.findall(r"(\w+)\s\(", NAMED)) | set(re.findall(r"\w+", ANY_SHAPE))
SUFFIXED = re.compile(r"[a-z]\w*?_(\d*[A-Z][A-Za-z0-9]*|[hwij]{1,2})")


def names(tree: ast.AST) -> Iterator[str]:
    """Variables, arguments and fields of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def tensors(tree: ast.AST) -> Iterator[str]:
    """Arguments that are annotated as a tensor."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None and re.fullmatch(
                r"paddle\.Tensor( \| None)?", ast.unparse(node.annotation)):
            yield node.arg


def suffix(name: str) -> str | None:
    found = SUFFIXED.fullmatch(name)
    return found.group(1) if found else None


def test_no_letter_of_the_legend_has_two_meanings():
    assert len(LEGEND) == len(set(LEGEND)) > 15
    assert {"B", "T", "D", "1"} <= set(LEGEND) and {"images", "mask", "bias", "query_index", "x"} <= WITHOUT


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_suffixes_are_in_the_legend(path):
    known = set(LEGEND) | set("123456789")
    for name in names(ast.parse(path.read_text(encoding="utf-8"))):
        unknown = set(suffix(name) or "") - known
        assert not unknown, f"{name}: {', '.join(sorted(unknown))} is not in the legend of layers/__init__.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_every_tensor_that_is_handed_on_says_its_shape(path):
    silent = {name for name in tensors(ast.parse(path.read_text(encoding="utf-8"))) if suffix(name) is None}
    assert silent <= WITHOUT, f"give {sorted(silent - WITHOUT)} a suffix"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_legend_is_written_once(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[Ss]hape suffixes: (?!`layers/__init__\.py`)", text)
    assert "Shape suffixes" in text or not any(suffix(name) for name in names(ast.parse(text)))


@pytest.mark.parametrize(("name", "found"), [
    ("x_BTD", "BTD"), ("w_BN1", "BN1"), ("first_1HTT", "1HTT"), ("left_ih", "ih"), ("map_BChw", "BChw"),
    ("num_heads", None), ("query_index", None), ("GPU_BLOCK", None), ("x", None)])
def test_a_suffix_is_told_from_a_name(name, found):
    assert suffix(name) == found
