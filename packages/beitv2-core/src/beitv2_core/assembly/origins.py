# SPDX-License-Identifier: Apache-2.0
"""What a run learnt from besides its images: the models that it read, what those read, and the teacher at the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Optional

import yaml

from ..config.load import flatten
from ..teachers import LEARNT_FROM
from ..weights.kind import CardFacts
from ..yaml_text import parse_yaml
from .kinds import known_kinds
from .loaded_weights import stage_of

#: of a run of both stages it means the first one
TOKENIZER_SETTING = "tokenizer.weights"


def settings_of_run(folder: Path) -> Optional[dict[str, Any]]:
    """The settings of a run folder as plain values; None where they cannot be read."""
    try:
        config = parse_yaml((folder / "config.yml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def facts_of_run(kind: str) -> Optional[CardFacts]:
    """The facts of the models that runs of a kind train."""
    return next((one.card for one in known_kinds().values() if one.run == kind and one.card.what), None)


def origins_of(config: Mapping[str, Any], facts: CardFacts) -> list[str]:
    """A sentence for every model that a run with these settings read, the nearest first.

    A run that is still where the settings say is followed to those it read.  Of a lone file nothing more is known.
    """
    return list(dict.fromkeys(_origins(config, facts, ())))


def _origins(config: Mapping[str, Any], facts: CardFacts, seen: tuple[Path, ...]) -> Iterator[str]:
    settings = flatten(dict(config))
    for setting, read in facts.origins.items():
        if setting not in settings:
            continue
        place = settings[setting]
        if place is None:
            yield f"{read}: none."
            continue
        name, run = PurePath(str(place)).name, _run_of(str(place), setting)
        if run is None or run in seen:
            yield f"{read}: `{name}`; this card knows nothing more of it."
            continue
        before = settings_of_run(run) or {}
        of_kind = facts_of_run(str(before.get("kind"))) or CardFacts()
        data = of_kind.trained_on(before)
        yield f"{read}: `{name}`" + (f", trained on {data.words}." if data else ".")
        yield from _origins(before, of_kind, (*seen, run))
    teacher = settings.get("teacher.name")
    if teacher is not None:
        yield _teacher(str(teacher), settings.get("teacher.weights"))


def _teacher(name: str, weights: Optional[str]) -> str:
    """What a tokenizer's teacher is, and what it learnt from."""
    learnt = LEARNT_FROM.get(name)
    file = f" (`{PurePath(str(weights)).name}`)" if weights else ""
    return f"Teacher of the tokenizer: `{name}`{file}; {learnt or 'its authors tell what it learnt from'}."


def _run_of(place: str, setting: str) -> Optional[Path]:
    """The run folder that a path of weights belongs to; None for a lone file, an address, or what is not there."""
    path = stage_of(place, ("tokenizer",) if setting == TOKENIZER_SETTING else ())
    run = path.parent.parent if path.suffix == ".pdckpt" else path
    return run.resolve() if settings_of_run(run) else None
