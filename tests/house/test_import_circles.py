# SPDX-License-Identifier: Apache-2.0
"""No module needs itself: imports make no circle, those inside functions included. Checked on the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[2] / "packages").glob("*/src/beitv2_*"))
SOURCES = [folder for folder in SOURCES if (folder / "__init__.py").is_file()]


def imported(path: Path, package: Path, known: set[str]) -> set[str]:
    """Modules of `known` that a file imports anywhere in it; a package stands for its __init__."""
    inside = path.relative_to(package.parent).with_suffix("").parts
    names: list[tuple[str, list[str]]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(inside[:len(inside) - node.level]) if node.level else []
            names.append((".".join([*base, *([node.module] if node.module else [])]), [one.name for one in node.names]))
    found = set()
    for module, parts in names:
        below = {f"{module}.{part}" for part in parts} & known
        found |= below
        if len(below) < len(parts) or not parts:  # a name that is no module comes from the package itself
            found |= {module} & known
    return found


def graph(package: Path) -> dict[str, set[str]]:
    """{module: modules of the same package that it imports}."""
    files = {".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
             for path in package.rglob("*.py")}
    return {name: imported(path, package, set(files)) - {name} for name, path in files.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other, sorted (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for below in sorted(edges[name]):
            if below not in order:
                visit(below)
            if below in stack:
                low[name] = min(low[name], low[below])
        if low[name] == order[name]:
            members = stack[stack.index(name):]
            del stack[stack.index(name):]
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(edges):
        if name not in order:
            visit(name)
    return sorted(found)


@pytest.mark.parametrize("package", SOURCES, ids=lambda folder: folder.name)
def test_no_module_imports_itself_by_way_of_others(package):
    assert circles(graph(package)) == []


def rooms(package: Path) -> dict[str, set[str]]:
    """{room: rooms of the same package that it imports}; a room is a folder or a file at the package's root."""
    found: dict[str, set[str]] = {}
    for name, below in graph(package).items():
        here = (name.split(".") + ["__init__"])[1]
        others = {(module.split(".") + ["__init__"])[1] for module in below}
        found.setdefault(here, set()).update(others - {here})
    return found


@pytest.mark.parametrize("package", SOURCES, ids=lambda folder: folder.name)
def test_no_room_imports_itself_by_way_of_others(package):
    assert circles(rooms(package)) == []


def test_a_circle_is_found_inside_functions_too(tmp_path):
    package = tmp_path / "house"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("from .room import a\n", encoding="utf-8")
    (package / "room" / "__init__.py").write_text("", encoding="utf-8")
    (package / "room" / "a.py").write_text("def f():\n    from house.room import b\n", encoding="utf-8")
    (package / "room" / "b.py").write_text("from .a import f\n", encoding="utf-8")
    assert circles(graph(package)) == [["house.room.a", "house.room.b"]]
