# SPDX-License-Identifier: Apache-2.0
"""Core knows nothing of segmentation: its words come from the plug-ins of the package that does it."""

from __future__ import annotations

import re
from pathlib import Path

CORE = Path(__file__).resolve().parents[2] / "packages" / "beitv2-core" / "src"
WORDS = re.compile(r"segment|decode_head|pool_scales|out_indices|upernet", re.IGNORECASE)
#: what may hold such a word: a class of Matplotlib, and the list of the files that the authors published
ALLOWED = re.compile(r"LinearSegmentedColormap")
DATA = "published_models.yml"


def test_core_names_no_segmentation():
    files = [path for path in CORE.rglob("*") if path.suffix in (".py", ".html", ".css", ".js", ".yml")
             and path.name != DATA]
    assert len(files) > 100
    found = [f"{path.relative_to(CORE)}:{number}: {line.strip()}" for path in files
             for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
             if WORDS.search(ALLOWED.sub("", line))]
    assert not found, "\n".join(found)
