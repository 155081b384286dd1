# SPDX-License-Identifier: Apache-2.0
"""What `make build` and `make wheels` leave in dist/: archives, and the notes of a release."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("build_alone", ROOT / "tests/house/build_alone.py")
build_alone = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(build_alone)
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "packages/beitv2-core/src/beitv2_core/__init__.py").read_text())[1]


def test_the_notes_are_the_changes_that_are_not_released_else_those_of_the_version():
    text = "# Changelog\n\n## [Unreleased]\n\n### Added\n- two\n\n## [0.2.0] - 2026-11-26\n- one\n"
    assert build_alone.notes(text, "0.2.0") == "# BEiT v2 for PaddlePaddle 0.2.0\n\n### Added\n- two\n"
    assert build_alone.notes(text.replace("### Added\n- two\n", ""), "0.2.0").endswith("0.2.0\n\n- one\n")
    with pytest.raises(SystemExit, match="says anything"):
        build_alone.notes("# Changelog\n", "0.2.0")


def test_the_changelog_knows_the_version_that_is_built():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^]]+)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased" and VERSION in versions
    released = [tuple(map(int, one.split("."))) for one in versions[1:]]
    assert released == sorted(released, reverse=True) and VERSION == versions[1]
    assert "- " in build_alone.notes(text, VERSION)


def test_archives_of_an_earlier_build_give_way_and_other_files_stay(tmp_path):
    built, target = tmp_path / "built", tmp_path / "dist"
    for folder, names in ((built, ["beitv2_core-0.2.0-py3-none-any.whl", "beitv2_core-0.2.0.tar.gz"]),
                          (target, ["beitv2_core-0.1.0.tar.gz", "mine.txt"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    build_alone.deliver(built, target)
    assert sorted(path.name for path in target.iterdir()) == [
        "RELEASE_NOTES.md", "beitv2_core-0.2.0-py3-none-any.whl", "beitv2_core-0.2.0.tar.gz", "mine.txt"]
