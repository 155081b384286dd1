"""Each package stands on what its own pyproject.toml declares, and the three declare it alike."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("beitv2-core", "beitv2-cls", "beitv2-seg")
#: imported name -> name of the distribution, where they differ
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "cv2": "opencv-python",
                 "paddle": "paddlepaddle"}
#: used where they are installed, never asked for: a user has them already, or does without
PEERS = {"torch", "timm", "transformers"}


def project(package: str) -> dict:
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in requirements}


def imported(code: str) -> Iterator[tuple[str, bool, int]]:
    """Distribution of every import, whether it is made when the module is imported, and its line."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
            [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in found:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names:
                yield DISTRIBUTIONS.get(top, top.lower().replace("_", "-")), node in tree.body, node.lineno


def undeclared(code: str, always: set[str], extras: set[str], own: str) -> list[str]:
    """Imports of a module that neither its package's dependencies nor, where they come later, its extras declare."""
    return [f"line {line}: {name}" for name, at_once, line in imported(code)
            if name not in always | {own, "paddlepaddle"} and (at_once or name not in extras | PEERS)]


@pytest.mark.skipif(not hasattr(sys, "stdlib_module_names"), reason="Python 3.9 has no list of its own modules")
@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package):
    about = project(package)
    extras = about["optional-dependencies"]
    assert "paddlepaddle" in names(extras["cpu"]) or extras["cpu"] == ["beitv2-core[cpu]"]  # one of two wheels
    chosen = {name for extra in extras.values() for name in names(extra)}
    if package != "beitv2-core" and any("beitv2-core[visualdl]" in extra for extra in extras.values()):
        chosen |= names(project("beitv2-core")["optional-dependencies"]["visualdl"])
    found = {}
    for path in sorted((ROOT / "packages" / package / "src").rglob("*.py")):
        # The page of `serve` is imported by its command alone, which says what to install.
        served = names(extras["serve"]) if "serve" in path.parts and "serve" in extras else set()
        wrong = undeclared(path.read_text(encoding="utf-8"), names(about["dependencies"]) | served, chosen, package)
        if wrong:
            found[path.name] = wrong
    assert not found


@pytest.mark.skipif(not hasattr(sys, "stdlib_module_names"), reason="Python 3.9 has no list of its own modules")
@pytest.mark.parametrize("code, wrong", [
    ("import numpy", False), ("import os", False), ("from PIL import Image", False), ("import onnx", True),
    ("def f():\n    import onnx", False), ("def f():\n    import cv2", True), ("import torch", True),
    ("def f():\n    import torch", False), ("from . import x", False), ("from beitv2_cls.x import y", False)])
def test_the_search_finds_what_it_is_for(code, wrong):
    assert bool(undeclared(code, {"numpy", "pillow"}, {"onnx"}, "beitv2-cls")) is wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_every_dependency_says_which_versions(package):
    about = project(package)
    bare = [one for extra in (about["dependencies"], *about["optional-dependencies"].values()) for one in extra
            if not re.search(r"[<=>]", one) and not one.startswith(("beitv2-core[", "setuptools"))]
    assert not bare


def test_cls_and_seg_go_with_the_core_of_the_same_minor_version():
    versions = set()
    for package in PACKAGES:
        text = (ROOT / "packages" / package / "src" / package.replace("-", "_") / "__init__.py").read_text()
        versions.add(re.search(r'__version__ = "(\d+\.\d+)\.\d+"', text)[1])
    (minor,) = versions
    for package in PACKAGES[1:]:
        assert f"beitv2-core=={minor}.*" in project(package)["dependencies"]


def test_the_packages_name_the_same_lowest_versions():
    wanted: dict[str, str] = {}
    for package in PACKAGES:
        for one in project(package)["dependencies"]:
            name = next(iter(names([one])))
            assert wanted.setdefault(name, one) == one, f"{package}: {one}, but {wanted[name]} elsewhere"


@pytest.mark.parametrize("package", PACKAGES)
def test_an_index_learns_what_the_package_is(package):
    about = project(package)
    assert about["license"] == "Apache-2.0" and about["keywords"] and about["urls"]
    minor = [int(found[1]) for one in about["classifiers"] if (found := re.search(r"Python :: 3\.(\d+)$", one))]
    assert minor == list(range(9, 14 if package == "beitv2-core" else 12))
