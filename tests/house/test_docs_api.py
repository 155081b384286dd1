# SPDX-License-Identifier: Apache-2.0
"""docs/api.md is what docs/make_api.py prints, in both languages; public names are few, typed, in the type stubs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("beitv2_core", "beitv2_cls", "beitv2_seg")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_of_the_api_is_the_generated_one(language):
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    written = generator.PAGES[language].read_text(encoding="utf-8")
    assert generator.page(language) == written, "a docstring or a signature changed: python docs/make_api.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_at_most_twelve_public_names_all_documented_and_typed(package):
    module = importlib.import_module(package)
    names = [name for name in module.__all__ if name != "__version__"]
    assert len(names) <= 12 and set(dir(module)) == set(module.__all__)
    for name in names:
        thing = getattr(module, name)
        assert inspect.getdoc(thing), name
        call = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
        assert [one for one in call.parameters.values()
                if one.name != "self" and one.annotation is inspect.Parameter.empty] == [], name


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_names_that_are_there(package):
    module = importlib.import_module(package)
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {alias.asname for node in ast.walk(stub) if isinstance(node, ast.ImportFrom) for alias in node.names}
    seen |= {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert seen == {name for name in module.__all__ if name != "__version__"}
    assert not any(inspect.ismodule(getattr(module, name)) for name in seen), "a module hides a public name"
