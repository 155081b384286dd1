# SPDX-License-Identifier: Apache-2.0
"""Every function, class and method of the packages is used by the packages, or says here why it is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in ROOT.glob("packages/*/src/*/**/*.py"))
#: decorators that hand a function to a library, which calls it
REGISTERING = {"model_validator", "field_validator", "get", "post", "exception_handler", "middleware"}
#: name -> why nothing in the packages calls it
ALLOWED = {
    "extra_repr": "Paddle's Layer.__repr__ calls it",
    "invoke": "click's Group calls it",
    "construct_mapping": "PyYAML's loader calls it",
    "find_class": "pickle.Unpickler calls it",
    "persistent_load": "pickle.Unpickler calls it",
    "last_attention": "the official get_last_selfattention: the parity tests compare it",
    "save_pretrained": "docs/api.md offers it to users",
    "shell_complete": "typer calls it when a shell asks",
    "connection_made": "asyncio calls it", "data_received": "asyncio calls it", "connection_lost": "asyncio calls it",
    "on_response_complete": "uvicorn calls it",
}


def definitions(tree: ast.AST) -> Iterator[tuple[str, int, list[str]]]:
    """(name, line, names of the decorators) of every function, class and method."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            decorators = [call.func if isinstance(call, ast.Call) else call for call in node.decorator_list]
            yield node.name, node.lineno, [ast.unparse(one).rpartition(".")[2] for one in decorators]


def uses(node: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Names that are read or called, but for a function's use of itself."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        inside = (*inside, node.name)
    name = (node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else
            node.attr if isinstance(node, ast.Attribute) else None)
    if name is not None and name not in inside:
        yield name
    for child in ast.iter_child_nodes(node):
        yield from uses(child, inside)


def offered() -> set[str]:
    """Names that users reach otherwise: entry points, and what the packages' own `__init__` lists as public."""
    points = {name for path in ROOT.glob("packages/*/pyproject.toml")
              for name in re.findall(r'= "[\w.]+:(\w+)"', path.read_text(encoding="utf-8"))}
    tops = [path for path in FILES if path.name == "__init__.py" and path.parents[1].name == "src"]
    public = {node.value for path in tops for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
              if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()}
    return points | public


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
USED = {name for tree in TREES.values() for name in uses(tree)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_defined_is_used(path):
    known = USED | offered() | set(ALLOWED)
    dead = [f"line {line}: {name}" for name, line, decorators in definitions(TREES[path])
            if name not in known and not re.fullmatch("__.*__", name) and not REGISTERING & set(decorators)]
    assert not dead, "nobody calls it: delete it with its tests, or say in ALLOWED why it stays"


def test_the_list_of_exceptions_is_no_longer_than_needed():
    defined = {name for tree in TREES.values() for name, _, _ in definitions(tree)}
    assert set(ALLOWED) <= defined - USED
