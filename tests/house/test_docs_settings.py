# SPDX-License-Identifier: Apache-2.0
"""docs/settings.md is what docs/make_settings.py prints, and it misses no setting: each has values and a meaning."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from beitv2_core.config import config_kinds

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("make_settings", ROOT / "docs/make_settings.py")
GENERATOR = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(GENERATOR)
PAGE = GENERATOR.PAGES["en"].read_text(encoding="utf-8")


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, description) of every setting of a kind of settings file that is no section."""
    for name, field in model.model_fields.items():
        section = GENERATOR.section_of(field.annotation)
        if section in config_kinds().values():
            continue  # both stages of a run have entries of their own
        if section is None:
            yield prefix + name, field.description or ""
        else:
            yield from settings(section, f"{prefix}{name}.")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_of_settings_is_the_generated_one(language):
    written = GENERATOR.PAGES[language].read_text(encoding="utf-8")
    assert GENERATOR.page(language) == written, "a description changed: python docs/make_settings.py"


@pytest.mark.parametrize("kind", config_kinds())
def test_every_setting_of_a_kind_has_an_entry_with_a_meaning(kind):
    found = dict(settings(config_kinds()[kind]))
    components = {"train_dataset", "val_dataset", "optimizer", "lr_scheduler", "model.backbone"}  # their own entries
    assert len(found) > 3
    assert [key for key, said in found.items() if not said and key not in components] == [], \
        "give the field a description, which --help and errors show too"
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert [key for key in found if key not in rows] == []
    assert [key for key in found if "any value" in rows[key].split(" | ")[0]] == [], "name its type in make_settings"


@pytest.mark.parametrize("name, kind", GENERATOR.components(), ids=lambda one: one if isinstance(one, str) else "")
def test_every_argument_of_a_component_has_an_entry_with_a_meaning(name, kind):
    _, _, section = PAGE.partition(f"\n### type: {name}\n")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| (.+) \|$", section.partition("\n### ")[0], re.MULTILINE)
    assert [row[0] for row in rows] == list(GENERATOR.arguments(kind)), \
        f"say `argument: meaning` in the docstring of {kind.__name__}, then python docs/make_settings.py"


def test_every_kind_names_the_command_that_reads_it():
    assert set(GENERATOR.COMMANDS) == set(config_kinds())
