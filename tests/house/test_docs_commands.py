# SPDX-License-Identifier: Apache-2.0
"""docs/commands.md is what docs/make_commands.py prints, in both languages, and it misses no command."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from beitv2_core import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_of_commands_is_the_generated_one(language):
    spec = importlib.util.spec_from_file_location("make_commands", ROOT / "docs/make_commands.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    written = generator.PAGES[language].read_text(encoding="utf-8")
    assert generator.page(language) == written, "the help texts changed: python docs/make_commands.py"


def test_every_command_has_a_section():
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    names = [info.name or info.callback.__name__.replace("_", "-") for info in cli.app.registered_commands]
    for group in cli.app.registered_groups:
        names += [f"{group.name} {info.callback.__name__}" for info in group.typer_instance.registered_commands]
    assert len(names) > 20
    assert [name for name in names if f"\n### beitv2 {name}\n" not in text] == []
