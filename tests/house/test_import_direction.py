# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, rooms stay small, and core does not know its neighbours. Checked on every file's syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "packages" / "beitv2-core" / "src" / "beitv2_core"
PACKAGES = [path for path in ROOT.glob("packages/*/src/*") if path.is_dir() and path.suffix != ".egg-info"]

#: room of core -> rooms of core it imports; a room stands below the rooms that import it
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "masking": set(),
    "pixels": set(),
    "rel_pos_index": set(),
    "_entry_points": {"errors"},
    "yaml_text": {"files"},
    "planning": {"errors"},
    "runtime": {"errors"},
    "launching": {"_entry_points", "errors", "files", "runtime"},
    "layers": {"errors", "rel_pos_index", "runtime"},
    "weights": {"errors", "files", "rel_pos_index"},
    "__init__": {"runtime"},  # the package itself, as `import beitv2_core`
    "checkpoint": {"errors", "files", "weights", "yaml_text"},
    "cards": {"errors", "files", "weights", "yaml_text"},
    "data": {"errors", "files", "pixels", "runtime"},  # runtime: threads of the workers
    "datasets": {"data"},  # when images are opened: settings are read without it
    "config": {"_entry_points", "datasets", "errors", "pixels", "yaml_text"},
    "engine": {"errors", "files", "launching", "layers", "weights"},  # layers: the collectives
    "models": {"errors", "layers", "pixels"},
    "choosing": {"data", "errors"},
    "runners": {"errors", "runtime"},
    "exported_model": {"data", "errors", "files", "runners", "runtime"},  # runs where no Paddle is
    "paddlex": {"_entry_points", "data", "errors", "exported_model"},  # runs where PaddleX is
    "teachers": {"_entry_points", "errors", "exported_model", "files", "layers", "pixels", "runners", "runtime",
                 "weights"},  # built from weights and their hash
    "viz": {"engine", "errors", "files"},  # engine: the perplexity, as training logs it
    "assembly": {"_entry_points", "cards", "checkpoint", "config", "data", "datasets", "engine", "errors", "files",
                 "launching", "layers", "masking", "models", "pixels", "planning", "teachers", "viz", "weights",
                 "yaml_text"},
    "conversion": {"assembly", "errors", "files", "pixels", "weights"},
    "evaluation": {"assembly", "config", "data", "datasets", "engine", "errors", "exported_model", "files", "models",
                   "pixels", "viz", "yaml_text"},
    "inference": {"_entry_points", "assembly", "conversion", "data", "errors", "evaluation", "exported_model",
                  "files", "layers", "models", "pixels", "runners", "runtime", "weights"},
    "checking": {"_entry_points", "choosing", "config", "data", "datasets", "engine", "errors", "files", "inference",
                 "viz"},
    "exporting": {"_entry_points", "assembly", "data", "errors", "evaluation", "exported_model", "files", "paddlex",
                  "runners", "runtime"},
    "two_stages": {"assembly", "choosing", "config", "data", "datasets", "engine", "errors", "evaluation", "files",
                   "planning", "runtime", "weights"},
    "bench": {"engine", "errors", "exported_model", "exporting", "layers", "runners", "runtime", "viz"},
    "serve": {"_entry_points", "data", "errors", "evaluation", "runtime", "viz"},  # models come in from the command
    "api": {"assembly", "config", "engine", "errors", "evaluation", "exported_model", "exporting", "files",
            "inference", "launching", "layers", "runtime", "two_stages"},
    "commands": {"api", "assembly", "bench", "cards", "checking", "config", "conversion", "data", "datasets", "errors",
                 "evaluation", "exported_model", "exporting", "files", "inference", "launching", "pixels", "planning",
                 "runtime", "serve", "viz", "weights"},
    "cli": {"_entry_points", "commands", "errors", "runtime"},
}
#: room -> third-party packages it must not import
FORBIDDEN = {
    "layers": {"yaml", "PIL", "logging", "pydantic", "scipy", "sklearn"},
    "models": {"yaml", "PIL", "logging", "pydantic", "scipy", "sklearn"},
    "data": {"paddle", "yaml", "pydantic"},
    "launching": {"paddle", "yaml", "pydantic"},
    "masking": {"paddle", "PIL", "yaml", "pydantic"},
    "config": {"paddle", "PIL"},
    "weights": {"paddle"},
    "viz": {"paddle"},
    "files": {"paddle", "yaml", "pydantic"},
    "pixels": {"paddle", "numpy", "yaml", "pydantic"},
    "planning": {"paddle", "yaml", "pydantic"},
    "choosing": {"paddle", "yaml", "pydantic"},
    "checking": {"paddle", "yaml", "pydantic"},
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
ROOMS = sorted({path.name.split(".")[0] for path in CORE.iterdir()
                if path.suffix == ".py" or (path / "__init__.py").exists()})
CORE_FILES = [path for path in FILES if CORE in path.parents]


def room_of(path: Path) -> str:
    return path.relative_to(CORE).parts[0].split(".")[0]


def rooms_used(path: Path) -> set[str]:
    """Other rooms of core that a file imports."""
    return {room(name) for name in imports(path) if name.startswith("beitv2_core.")} & set(ROOMS) - {room_of(path)}


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda p: str(p.relative_to(CORE)))
def test_core_imports_only_from_the_rooms_below(path):
    here = room_of(path)
    assert here in ALLOWED, f"{here}: a new room. Say in ALLOWED what it may import."
    assert rooms_used(path) <= ALLOWED[here], f"{here} may import {sorted(ALLOWED[here])}"
    top = {name.split(".")[0] for name in imports(path)}
    assert not top & NEIGHBOURS, "core names a neighbour"
    assert not top & FORBIDDEN.get(here, set())


def test_every_room_stands_above_those_it_imports_and_no_way_is_open_for_nobody():
    above: set[str] = set()
    for here, below in ALLOWED.items():
        assert below <= above, f"{here} is listed before {sorted(below - above)}"
        above.add(here)
    used: dict[str, set[str]] = {here: set() for here in ROOMS}
    for path in CORE_FILES:
        used[room_of(path)] |= rooms_used(path)
    assert used == ALLOWED


def test_contributing_says_which_room_imports_which():
    lines = [f"{here:<14} <- {' '.join(sorted(below))}" for here, below in ALLOWED.items() if below]
    alone = " ".join(here for here, below in ALLOWED.items() if not below)
    wanted = "\n".join(["```text", *lines, "```", f"On no other room stand: {alone}."])
    assert wanted in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), f"write there:\n{wanted}"


def test_core_knows_no_head_and_no_package_above_it():
    """Kinds of models bring their names, shapes and words by entry point: to repair, see docs/extension.md."""
    told = re.compile(r"upernet|decode_head|auxiliary_head|beitv2.cls|beitv2.seg", re.IGNORECASE)
    text = [path for path in CORE.rglob("*") if path.suffix in (".py", ".yml", ".html", ".js", ".css")]
    assert len(text) > 100
    assert not [f"{path.relative_to(CORE)}:{number}" for path in text
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if told.search(line)]


def test_entry_points_are_looked_up_in_one_file():
    wanted = {"importlib.metadata.entry_points", "importlib_metadata.entry_points", "pkg_resources"}
    users = [path.name for path in FILES if wanted & set(imports(path))
             or any(ast.unparse(node) in wanted for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                    if isinstance(node, ast.Attribute))]
    assert users == ["_entry_points.py"]


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
