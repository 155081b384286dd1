"""Imports go one way, rooms stay small, and core does not know its neighbours. Checked on every file's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "packages" / "beitv2-core" / "src" / "beitv2_core"
PACKAGES = [path for path in ROOT.glob("packages/*/src/*") if path.is_dir() and path.suffix != ".egg-info"]

#: room of core -> rooms of core it may import
ALLOWED = {
    "errors": set(),
    "runtime": {"errors"},
    "_entry_points": set(),
    "window": set(),
    "layers": {"errors", "window"},
    "models": {"errors", "layers"},
    "checkpoint": {"errors", "window"},
    # A teacher is built from weights and their hash, so it reads them itself.
    "teachers": {"errors", "layers", "checkpoint", "_entry_points"},
    "masking": {"errors"},
    "data": {"errors", "masking", "runtime"},  # runtime: threads of the workers
    "engine": {"errors", "layers", "runtime"},  # layers: the collectives
    "config": {"errors", "_entry_points"},
    "viz": {"errors"},
    "planning": {"errors", "window"},
    "serve": {"errors", "_entry_points", "data", "viz", "codes", "evaluate"},  # models come in from the command
    "deployed": {"errors", "data", "runtime"},  # runs where no Paddle is
    "assembly": {"errors", "layers", "models", "teachers", "masking", "data", "engine", "checkpoint", "config", "viz",
              "planning", "_entry_points", "window"},
    "export": {"errors", "models", "assembly", "codes", "data", "deployed", "_entry_points"},
}
#: room -> third-party packages it must not import
FORBIDDEN = {
    "layers": {"yaml", "PIL", "logging", "pydantic", "scipy", "sklearn"},
    "models": {"yaml", "PIL", "logging", "pydantic", "scipy", "sklearn"},
    "data": {"paddle", "yaml", "pydantic"},
    "masking": {"paddle", "PIL", "yaml", "pydantic"},
    "config": {"paddle", "PIL"},
    "checkpoint": {"paddle"},
    "viz": {"paddle"},
    "planning": {"paddle", "yaml", "pydantic"},
}
NEIGHBOURS = {"ppcls", "paddleclas", "paddleseg", "beitv2_cls", "beitv2_seg"}


def imports(path: Path) -> Iterator[str]:
    """Full dotted names a file imports, relative ones resolved."""
    package = path.relative_to(CORE.parent).with_suffix("").parts if CORE in path.parents else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))


@pytest.mark.parametrize("path", [p for p in FILES if CORE in p.parents], ids=lambda p: str(p.relative_to(CORE)))
def test_core_imports_only_from_the_rooms_below(path):
    here = path.relative_to(CORE).parts[0].removesuffix(".py") if hasattr(str, "removesuffix") else \
        path.relative_to(CORE).parts[0].split(".")[0]
    names = set(imports(path))
    assert not {name.split(".")[0] for name in names} & NEIGHBOURS, "core names a neighbour"
    if here in ALLOWED:
        rooms = {room(name) for name in names if name.startswith("beitv2_core.")}
        rooms = {name for name in rooms if (CORE / name).is_dir() or (CORE / f"{name}.py").exists()}
        assert rooms <= ALLOWED[here] | {here}, f"{here} may import {sorted(ALLOWED[here])}"
    top = {name.split(".")[0] for name in names}
    assert not top & FORBIDDEN.get(here, set())


def test_cls_and_seg_never_meet():
    for path in FILES:
        top = {name.split(".")[0] for name in imports(path)}
        if "beitv2_cls" in path.parts:
            assert "beitv2_seg" not in top, path
        if "beitv2_seg" in path.parts:
            assert "beitv2_cls" not in top, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_named_after_what_they_hold(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in {"utils", "util", "misc", "helper", "helpers", "common"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_prints_exits_or_loads_pickles_outside_its_place(path):
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Call)}
    assert "print" not in calls
    assert not calls & {"sys.exit", "exit", "paddle.load", "pickle.load", "pickle.loads"}
