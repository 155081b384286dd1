# SPDX-License-Identifier: Apache-2.0
"""JSON that anybody may have written: one kind of error for whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union

#: levels of lists and dictionaries in one another; what reads the values calls itself once or twice a level
MAX_DEPTH = 100
TOO_DEEP = f"lists and dictionaries are nested more than {MAX_DEPTH} deep"


def parse_json(text: Union[str, bytes]) -> Any:
    """`json.loads` that raises ValueError alone, also for what is nested deeper than `MAX_DEPTH`."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level: list[Any] = [found]
    for _ in range(MAX_DEPTH + 1):
        level = [below for value in level for below in _inside(value) if isinstance(below, (dict, list))]
        if not level:
            return found
    raise ValueError(TOO_DEEP)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object that a command may have left; {} where it is not there yet, or was cut by a kill."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
