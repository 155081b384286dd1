# SPDX-License-Identifier: Apache-2.0
"""The documents of the repository, as tests read them: pages, code blocks, anchors of headings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r'(?:^<a id="([^"]+)"></a>\n)?^(#{1,6}) (.+)$', re.MULTILINE)
#: pages that a script of docs/ writes
GENERATED = ("commands.md", "api.md", "settings.md")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md"),
                *ROOT.glob("benchmarks/*.md")])
#: written by hand, in English; other tests compare the Chinese ones with them
WRITTEN = [path for path in PAGES if path.name not in (*GENERATED, "CHANGELOG.md", "README_cn.md")
           and path.parent != ROOT / "docs/zh" and ROOT / "docs/zh" not in path.parents]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
SHELL = ("", "sh", "bash")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language of the fence, code) of every code block of a document."""
    return FENCE.findall(path.read_text(encoding="utf-8"))


def cells(path: Path, kind: str) -> list[tuple[str, str]]:
    """(id, text) of the cells of a notebook that are of this kind, "code" or "markdown", in order."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["id"], "".join(cell["source"])) for cell in found if cell["cell_type"] == kind]


def shell_lines(code: str) -> list[str]:
    """The commands of a shell block: continued lines joined, comments removed; with `$ ` only lines that begin so."""
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in (re.sub(r"(^|\s+)#\s.*", "", line).strip() for line in lines) if line]


def headings(text: str) -> list[tuple[str, str]]:
    """(level as a row of #, anchor) of every heading; code blocks have none."""
    return [(level, anchor or slug(words)) for anchor, level, words in HEADING.findall(FENCE.sub("", text))]


def slug(heading: str) -> str:
    """The anchor that GitHub and the site give a heading."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
