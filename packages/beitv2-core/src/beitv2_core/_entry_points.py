# SPDX-License-Identifier: Apache-2.0
"""Look-up of entry points: objects that installed packages add to a group, by name."""

from __future__ import annotations

import difflib
import functools
import logging
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import ConfigError, MissingDependencyError

log = logging.getLogger("beitv2_core")


def load(group: str, name: str, ours: Mapping[str, Any], where: str) -> Any:
    """The object called `name`: ours, or that of an installed package in the group.  Ours comes first.

    where: the setting or run that needs it, as the message begins ("mask.kind", "runs/7: views of a run").
    Raises ConfigError listing the known names, MissingDependencyError where the package that offers it cannot be
    imported, with the package and the cause.
    """
    if name in ours:
        return ours[name]
    for point in _points(group):
        if point.name == name:
            return _loaded(point, where)
    known = names(group, ours)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{where}: there is no {name!r}.{hint} Known: {', '.join(known) or 'none'}; installed packages "
                      f"add theirs by the entry points {group!r}.")


def load_all(group: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is known in a group, ours first; a package that cannot be imported is left out with a warning."""
    found = dict(ours)
    for point in _points(group):
        if point.name not in found:
            try:
                found[point.name] = _loaded(point, group)
            except MissingDependencyError as error:
                log.warning("%s", error)
    return found


def names(group: str, ours: Mapping[str, Any]) -> list[str]:
    """The names `load` takes, ours first; nothing is imported."""
    return list(dict.fromkeys([*ours, *(point.name for point in _points(group))]))


def modules(group: str) -> set[str]:
    """The top-level modules that offer something in a group."""
    return {point.value.partition(":")[0].partition(".")[0] for point in _points(group)}


def _points(group: str) -> tuple[EntryPoint, ...]:
    return _points_on(group, tuple(sys.path))


@functools.cache
def _points_on(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Cached: the look-up reads every package's files, which takes 20 ms."""
    if sys.version_info >= (3, 10):
        return tuple(entry_points(group=group))
    return tuple(entry_points().get(group, []))


def _loaded(point: EntryPoint, where: str) -> Any:
    try:
        return point.load()
    except Exception as error:  # an import can raise anything
        offered = getattr(getattr(point, "dist", None), "name", None) or point.value.partition(":")[0]
        raise MissingDependencyError(
            f"{where}: {point.name!r} comes from the package {offered} ({point.value}), which cannot be imported: "
            f"{type(error).__name__}: {error}. Repair or remove that package.") from error
