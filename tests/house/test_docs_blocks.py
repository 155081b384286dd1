# SPDX-License-Identifier: Apache-2.0
"""Every code block of a document is of a known language, and what it shows is run, or is at least known to be right.

Commands of ours are parsed in test_docs_shell.py; here are the other programs, the settings and the Python.  Output is
shown in blocks of `text`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections import Counter
from collections.abc import Iterator

import pytest
from docs_pages import ROOT, SHELL, WRITTEN, blocks, name_of, shell_lines

from beitv2_core.config import load_config
from beitv2_core.errors import BEiTError

#: languages of fences; text and console are output, toml is a package that a test writes out and installs
LANGUAGES = {*SHELL, "python", "yaml", "toml", "text", "console"}
#: programs of shell lines that are taken as they are
PLAIN = {"git", "curl", "unzip", "tar", "cd", ".", "export", "beitv2", "beitv2-paddlex", "docker", "jupyter"}
#: documents with settings -> a file that a block with some settings only is laid over, or the test that loads them
SETTINGS = {"docs/classification.md": None, "docs/health.md": "configs/pretrain/digit_scenes.yml",
            "docs/teachers.md": "configs/tokenizer/digit_scenes.yml",
            "docs/extension.md": "tests/e2e/test_extension.py",
            "docs/neighbours.md": "tests/neighbours/test_page.py",
            "docs/segmentation.md": "tests/seg/config/test_documented_settings.py",
            "packages/beitv2-seg/README.md": "tests/seg/paddleseg/test_training_parts.py"}
#: given with them: images, and what a run would tell
GIVEN = {"docs/classification.md": ["pretrained.weights=null", "model.size=tiny"],
         "docs/health.md": ["data.dataset=folder", "data.root=IMAGES", "data.size=null", "tokenizer.weights=RUN"],
         "docs/teachers.md": ["data.dataset=folder", "data.root=IMAGES", "data.size=null"]}
#: modules of blocks that need not be installed here
ELSEWHERE = {"torch", "timm", "transformers", "checkers", "paddleclas", "paddlex"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.search(r"\.PHONY:((?:.*\\\n)*.*)", MAKEFILE)[1].replace("\\", " ").split()


def of(*languages: str) -> Iterator[tuple[str, str]]:
    for path in WRITTEN:
        for language, code in blocks(path):
            if language in languages:
                yield name_of(path), code


def shown(found: Iterator[tuple[str, str]]) -> list:
    return [pytest.param(page, code, id=f"{page}: {code.strip().splitlines()[0][:50]}") for page, code in found]


def test_every_fence_names_a_known_language():
    found = {(name_of(path), language) for path in WRITTEN for language, _ in blocks(path)}
    assert {(page, language) for page, language in found if language not in LANGUAGES} == set()


def test_every_block_is_found():
    for path in WRITTEN:
        fences = re.findall(r"^ *```", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(path)), f"{name_of(path)}: a fence is open or indented"


LINES = sorted({(page, line) for page, code in of(*SHELL) for line in shell_lines(code)})


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda one: one[:60])
def test_a_line_of_a_shell_block_names_programs_files_and_targets_that_exist(page, line):
    for command in re.split(r"\s(?:&&|;|\|)\s", line):
        words = shlex.split(command)
        while "=" in words[0]:
            words.pop(0)  # a variable for this command
        check = {"make": of_make, "pip": of_pip, "python": of_python, "python3": of_python}.get(words[0])
        if check is None:
            assert words[0] in PLAIN, f"{words[0]}: a program that the documents do not use; is it output? Use ```text"
        else:
            check(words[1:])


def of_make(words: list[str]) -> None:
    for word in words:
        name, given, _ = word.partition("=")
        if given:
            assert re.search(rf"\b{name}\b", MAKEFILE), f"the Makefile has no variable {name}"
        else:
            assert word in TARGETS, f"the Makefile has no target {word}"


def of_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        found = re.match(r"(?:\./)?(?:packages/)?(beitv2-\w+)(?:\[([\w,]+)\])?", word)
        if found:
            pyproject = (ROOT / "packages" / found[1] / "pyproject.toml").read_text(encoding="utf-8")
            for extra in filter(None, (found[2] or "").split(",")):
                assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), f"{found[1]} has no extra {extra}"


def of_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, words[1]
        words = words[2:]
    for word in words:
        if re.fullmatch(r"(tests|docs|benchmarks|configs)/[\w/.-]+", word) or re.fullmatch(r"\w+\.py", word):
            assert (ROOT / word).exists(), f"there is no {word}"


@pytest.mark.parametrize(("page", "code"), shown(of("yaml")))
def test_a_block_of_settings_loads(page, code, tmp_path):
    base = SETTINGS[page]
    if base is not None and base.startswith("tests/"):
        assert page.rpartition("/")[2] in (ROOT / base).read_text(encoding="utf-8")
        return
    laid_over = f"_base_: {ROOT / base}\n" if base else ""
    (tmp_path / "block.yml").write_text(laid_over + code, encoding="utf-8")
    load_config(tmp_path / "block.yml", GIVEN[page])


def test_a_block_with_a_wrong_setting_would_not_load(tmp_path):
    (tmp_path / "block.yml").write_text(f"_base_: {ROOT / SETTINGS['docs/health.md']}\nmonitor: {{evry: 3}}\n")
    with pytest.raises(BEiTError, match="every"):
        load_config(tmp_path / "block.yml", GIVEN["docs/health.md"])


@pytest.mark.parametrize(("page", "code"), shown(of("python")))
def test_a_block_of_python_compiles_and_its_imports_have_the_names_it_uses(page, code):
    for name in used_names(compile(code, page, "exec", ast.PyCF_ONLY_AST)):
        assert resolves(name), f"{page}: there is no {name}"


def used_names(tree: ast.AST) -> set[str]:
    """Imported modules, what is taken from them, and attributes of imported modules, as dotted names."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                first = one.name.partition(".")[0]
                aliases[one.asname or first] = one.name if one.asname else first
        elif isinstance(node, ast.ImportFrom):
            for one in node.names:
                aliases[one.asname or one.name] = f"{node.module}.{one.name}"
    found = set(aliases.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in aliases:
            found.add(f"{aliases[ast.unparse(node.value)]}.{node.attr}")
    return found


def resolves(name: str) -> bool:
    """Whether a dotted name is a module or an attribute of one; modules of ELSEWHERE are believed."""
    parts = name.split(".")
    if parts[0] in ELSEWHERE:
        return True
    module = None
    while parts:
        try:
            module = importlib.import_module(parts[0] if module is None else f"{module.__name__}.{parts[0]}")
        except ImportError:
            break
        parts.pop(0)
    for part in parts if module is not None else ():
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return module is not None


@pytest.mark.parametrize("name, there", [
    ("os.path.join", True), ("beitv2_core.load", True), ("beitv2_core.lode", False), ("no_such_module", False),
    ("torch.anything", True)])
def test_names_are_looked_up(name, there):
    assert resolves(name) is there


def test_no_module_is_believed_that_no_document_uses():
    used = {name.partition(".")[0] for _, code in of("python") for name in used_names(ast.parse(code))}
    assert ELSEWHERE <= used


def test_documents_show_all_kinds():
    kinds = Counter(language for path in WRITTEN for language, _ in blocks(path))
    assert kinds["python"] > 10 and kinds["yaml"] > 15 and kinds[""] > 40
