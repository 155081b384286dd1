# SPDX-License-Identifier: Apache-2.0
"""A table of classes, name -> labels of the files, as names by number and a map of labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Union

from beitv2_core.config.sections import impossible

#: entries with a meaning: pixels without a class, and all labels that no entry names
IGNORE, REST = "ignore", "rest"
_COLOUR = re.compile(r"\d{1,3}, ?\d{1,3}, ?\d{1,3}")


class ClassTable(NamedTuple):
    """names: by number; label_map: number or colour "R,G,B" -> class; unlisted: what other labels become, or
    "refuse"."""

    names: list[str]
    label_map: dict[str, int]
    unlisted: Union[str, int]


def read_table(table: Mapping[str, Any], ignored: int) -> ClassTable:
    """The table `{road: [128, 64, 128], sky: 2, car: "#00008e", ignore: [0, 255]}`: classes are numbered in its order.

    A label is a number (2 or "2"), a colour ("#00008e", "0,0,142" or [0, 0, 142]), a list of them, which are merged
    into one class, or `rest`: all labels that no entry names.  Raises the error of a setting for what is neither, for a
    label that is named twice, and where three numbers may be a colour or three labels.
    """
    names = [name for name in table if name != IGNORE]
    if not names:
        raise impossible("classes", "names no class; expected a table {NAME: LABEL, ...}, a list of names or a file")
    values = {name: value if isinstance(value, list) else [value] for name, value in table.items()}
    colours = _has_colours(values)
    label_map: dict[str, int] = {}
    owner: dict[str, str] = {}
    rest = None
    for name, value in values.items():
        number = ignored if name == IGNORE else names.index(name)
        if not value:
            raise impossible("classes", f"{name} has no label; expected a number, a colour, a list of them, or rest")
        if value == [REST]:
            if rest is not None:
                raise impossible("classes", f"{name} and {rest} are both rest; expected one")
            rest = name
            continue
        for label in _labels(name, value, colours):
            if label in owner:
                raise impossible("classes", f"label {label!r} is named by {owner[label]} and by {name}; expected one "
                                 "class for each label")
            owner[label], label_map[label] = name, number
    unlisted: Union[str, int] = "refuse" if rest is None else ignored if rest == IGNORE else names.index(rest)
    return ClassTable(names, label_map, unlisted)


def _has_colours(values: Mapping[str, list[Any]]) -> bool | None:
    """Whether three numbers are a colour: None where the table does not tell."""
    every = [value for several in values.values() for value in [several, *several]]
    if any(isinstance(one, str) and (one.startswith("#") or "," in one) for one in every):
        return True
    if any(isinstance(inner, list) for several in values.values() for inner in several):
        return True
    lists = [several for several in values.values() if len(several) == 3]
    if any(len(set(map(str, several))) < 3 for several in lists):  # a label is not merged with itself
        return True
    return True if all(len(several) == 3 for several in values.values()) else None


def _labels(name: str, value: list[Any], colours: bool | None) -> list[str]:
    """The labels of one entry, as keys of a label_map."""
    if _is_triple(value):
        if colours is None:
            shown = ", ".join(map(str, value))
            quoted = ", ".join(f"'{one}'" for one in value)
            hexadecimal = "".join(f"{one:02x}" for one in value)
            raise impossible("classes", f"{name}: [{shown}] may be a colour or three labels that are merged. Write the "
                             f"colour as '#{hexadecimal}', or the labels as [{quoted}]")
        return [_colour(value)]
    return [_label(name, one) for one in value]


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= 255 for one in value)


def _label(name: str, one: Any) -> str:
    if isinstance(one, int) and not isinstance(one, bool) and one >= 0:
        return str(one)
    if isinstance(one, str) and one.isascii() and one.isdigit():
        return str(int(one))
    if _is_triple(one):
        return _colour(one)
    if isinstance(one, str) and re.fullmatch("#[0-9a-fA-F]{6}", one):
        return _colour([int(one[at:at + 2], 16) for at in (1, 3, 5)])
    if isinstance(one, str) and _COLOUR.fullmatch(one) and all(int(level) <= 255 for level in one.split(",")):
        return _colour([int(level) for level in one.split(",")])
    raise impossible("classes", f"{name}: {one!r} is no label; expected a number (2), a colour ('#00008e', '0,0,142' "
                     "or [0, 0, 142]), a list of them, or rest")


def _colour(levels: list[int]) -> str:
    return ",".join(map(str, levels))
