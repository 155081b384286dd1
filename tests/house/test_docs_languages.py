# SPDX-License-Identifier: Apache-2.0
"""Every page is there in English and in Chinese, with the same headings, code blocks, tables and links."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from docs_pages import FENCE, ROOT, headings

CODE = re.compile(r"(`+)((?:(?!\n\n).)+?)\1", re.DOTALL)
COMMENT = re.compile(r"(?:^|\s+)#(?!\s*/|!).*$", re.MULTILINE)


class Contents(NamedTuple):
    """What must be equal in both languages."""

    headings: list[str]  #: level and anchor, in order
    blocks: list[str]  #: language of the fence and the lines without comments
    tables: list[int]  #: for each row its number of cells
    cells: list[str]  #: cells that are code and nothing else; a Chinese page may mark more words of the program so
    links: list[str]  #: targets from the top of the repository, sorted
    commands: list[str]  #: commands named in the text, sorted


def contents(text: str, home: str) -> Contents:
    """The contents of a page that lies in the folder `home`, docs/zh or docs for instance."""
    blocks = [f"{language}\n" + "\n".join(filter(None, (line.rstrip() for line in COMMENT.sub("", code).splitlines())))
              for language, code in FENCE.findall(text)]
    prose = FENCE.sub("", text)
    targets = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", prose))
    named = [" ".join(code.split()) for _, code in CODE.findall(prose) if re.match(r"(beitv2|make)\s[a-z]", code)]
    rows = [row(line) for line in prose.splitlines() if line.startswith("|")]
    cells = [cell for cells in rows for cell in cells if re.fullmatch(r"`[^`]+`", cell)]
    return Contents([" ".join(one) for one in headings(text)], blocks, [len(one) for one in rows], sorted(cells),
                    sorted(from_root(target, home) for target in targets), sorted(named))


def row(line: str) -> list[str]:
    """The cells of a row of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def from_root(target: str, home: str) -> str:
    """A link's target from the top of the repository, that of a Chinese page as that of the English one."""
    if target.startswith(("#", "http://", "https://")):
        return target
    path = posixpath.normpath(posixpath.join(home, target))
    path = re.sub(r"^docs/zh/(.*\.md(?:#.*)?)$", r"docs/\1", path)
    return re.sub(r"^README_cn\.md", "README.md", path)


def chinese_of(page: str) -> str:
    return "README_cn.md" if page == "README.md" else page.replace("docs/", "docs/zh/", 1)


def english_pages(root: Path) -> list[str]:
    found = [*root.glob("docs/*.md"), *root.glob("docs/models/*.md")]
    return sorted(["README.md", *(path.relative_to(root).as_posix() for path in found)])


def differences(root: Path, page: str) -> list[str]:
    """What one language of a page has and the other has not, a line each; the page is named as the English one."""
    other = chinese_of(page)
    if not (root / other).is_file():
        return [f"{other} is missing"]
    english, chinese = (contents((root / name).read_text(encoding="utf-8"), posixpath.dirname(name))
                        for name in (page, other))
    found = []
    for part, ours, theirs in zip(Contents._fields, english, chinese):
        only, more = Counter(ours) - Counter(theirs), Counter(theirs) - Counter(ours)
        if part == "cells":
            more, theirs = Counter(), ours
        found += [f"{part}: only in {page}: {one}" for one in only]
        found += [f"{part}: only in {other}: {one}" for one in more]
        if not only and not more and ours != theirs:
            first = next(one for one, two in zip(ours, theirs) if one != two)
            found.append(f"{part}: in another order from {first!r} on")
    return found


@pytest.mark.parametrize("page", english_pages(ROOT))
def test_a_page_has_the_same_headings_blocks_tables_and_links_in_both_languages(page):
    assert differences(ROOT, page) == []


def test_no_chinese_page_is_without_an_english_one():
    wanted = {chinese_of(page) for page in english_pages(ROOT)}
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/zh").rglob("*.md")}
    assert found - wanted == set()


ENGLISH = """# Two words
Text with `beitv2 pretrain IMAGES` and [a page](b.md#c).

## Next
```
beitv2 look IMAGE   # a comment
```
| `key` | what |
|---|---|
| `a` | ![picture](images/x.png), [file](../configs/a.yml) |
"""
CHINESE = """<a id="two-words"></a>
# 两个词
文字，`beitv2 pretrain IMAGES`，[一页](b.md#c)。

<a id="next"></a>
## 下一节
```
beitv2 look IMAGE   # 注释
```
| `key` | 内容 |
|---|---|
| `a` | ![图](../images/x.png)、[文件](../../configs/a.yml) |
"""


@pytest.fixture
def compared(tmp_path):
    """The differences of a page in English and a Chinese one with some words replaced."""
    def result(old: str = "", new: str = "") -> list[str]:
        assert old in CHINESE
        for name, text in (("docs/a.md", ENGLISH), ("docs/zh/a.md", CHINESE.replace(old, new) if old else CHINESE)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return differences(tmp_path, "docs/a.md")
    return result


def test_a_translation_has_no_differences(compared):
    assert compared() == []


@pytest.mark.parametrize("old, new, part", [
    ('<a id="next"></a>\n', "", "headings"), ("## 下一节", "### 下一节", "headings"), ("## 下一节\n", "", "headings"),
    ("beitv2 look IMAGE", "beitv2 look IMAGES", "blocks"), ("```\nbeitv2", "```sh\nbeitv2", "blocks"),
    ("| `a` |", "| `b` |", "cells"), ("|---|---|\n", "|---|---|---|\n", "tables"),
    ("b.md#c", "b.md", "links"), ("(../images", "(images", "links"), ("../../configs", "../configs", "links"),
    ("`beitv2 pretrain IMAGES`", "`beitv2 pretrain`", "commands")])
def test_what_one_language_lacks_is_found(compared, old, new, part):
    found = compared(old, new)
    assert found and {one.partition(":")[0] for one in found} == {part}


def test_headings_in_another_order_are_found(tmp_path, compared):
    compared()
    for name in ("docs/a.md", "docs/zh/a.md"):
        (tmp_path / name).write_text("# A\n## B\n## C\n" if "zh" in name else "# A\n## C\n## B\n", encoding="utf-8")
    assert differences(tmp_path, "docs/a.md") == ["headings: in another order from '## c' on"]


def test_a_missing_page_is_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# A\n")
    assert english_pages(tmp_path) == ["README.md", "docs/a.md"]
    assert differences(tmp_path, "docs/a.md") == ["docs/zh/a.md is missing"]
