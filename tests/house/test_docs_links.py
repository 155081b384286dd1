# SPDX-License-Identifier: Apache-2.0
"""Every relative link, every heading it points to and every file that a document names exists."""

from __future__ import annotations

import re

import pytest
from docs_pages import FENCE, PAGES, ROOT, headings, name_of


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_and_named_files_exist(path):
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", FENCE.sub("", text)):
        found = path.parent / target if target else path
        assert found.exists(), f"{path.name} links to {target}"
        if anchor and found.suffix == ".md":
            anchors = [one for _, one in headings(found.read_text(encoding="utf-8"))]
            assert anchor in anchors, f"{path.name} links to {target}#{anchor}"
    for name in re.findall(r"(?<![\w/.-])((?:configs|tests|docs|benchmarks)/[\w/.-]+\.\w+)", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"
