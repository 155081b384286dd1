# SPDX-License-Identifier: Apache-2.0
"""The site of the documentation: one order of pages in both languages, nothing from other hosts, no broken link."""

from __future__ import annotations

import html.parser
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from docs_pages import ROOT

FILES = {"en": ROOT / "mkdocs.yml", "zh": ROOT / "mkdocs.zh.yml"}


class Loader(yaml.SafeLoader):
    """Reads MkDocs' files, in which a tag names a Python function."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def nav(language: str) -> list[Any]:
    return yaml.load(FILES[language].read_text(encoding="utf-8"), Loader)["nav"]


def pages(entries: list[Any]) -> list[Any]:
    """The tree of a navigation without its titles."""
    return [one if isinstance(one, str) else pages(one) for entry in entries for one in entry.values()]


def flat(tree: list[Any]) -> Iterator[str]:
    for one in tree:
        yield from [one] if isinstance(one, str) else flat(one)


def test_both_languages_have_the_same_pages_in_the_same_order():
    assert pages(nav("en")) == pages(nav("zh"))


def test_every_page_is_in_the_navigation_once():
    found = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = list(flat(pages(nav("en"))))
    assert len(listed) == len(set(listed)) and set(listed) == {name for name in found if not name.startswith("zh/")}


def test_titles_are_in_the_language_of_the_site():
    text = FILES["en"].read_text(encoding="utf-8").partition("nav:")[2]
    assert text.isascii() and sum("\u4e00" <= one <= "\u9fff" for one in str(nav("zh"))) > 60


def test_the_figure_of_the_method_is_what_its_script_draws():
    spec = importlib.util.spec_from_file_location("make_method_figure", ROOT / "docs/make_method_figure.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs/images/method.svg").read_text(encoding="utf-8")
    assert script.figure() == written, "python docs/make_method_figure.py"


def test_lines_of_chinese_paragraphs_are_put_together_and_others_are_not():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make docs")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert hooks.joined("- 一，\n  二\n## 三\n四 `x`\n五") == "- 一，二\n## 三\n四 `x`\n五"


class Sources(html.parser.HTMLParser):
    """Collects what a page loads, and the links of its switch between the languages."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.languages: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        given = dict(attrs)
        if tag == "a" and "hreflang" in given:
            self.languages[given["hreflang"]] = given["href"]
        elif tag != "a" and given.get("rel") not in ("canonical", "alternate", "prev", "next"):
            self.loaded += [given[key] for key in ("src", "href") if given.get(key)]


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed: make docs")
def test_the_site_of_both_languages_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    for language, folder in (("en", tmp_path), ("zh", tmp_path / "zh")):
        done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", FILES[language],
                               "--site-dir", folder], cwd=ROOT, text=True, capture_output=True, timeout=120,
                              env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
        assert done.returncode == 0, done.stderr
    found = sorted(tmp_path.rglob("*.html"))
    assert len(found) == 2 * (len(list(flat(pages(nav("en"))))) + 1)  # and a page for what is not found
    for path in found:
        page = Sources()
        page.feed(path.read_text(encoding="utf-8"))
        assert [one for one in page.loaded if one.startswith(("http:", "https:", "//"))] == [], path.name
        assert set(page.languages) == {"en", "zh"}
        if path.name != "404.html":
            same = {(path.parent / link).resolve() for link in page.languages.values()}
            assert path.resolve() in same and len(same) == 2 and all(one.is_file() for one in same), path
