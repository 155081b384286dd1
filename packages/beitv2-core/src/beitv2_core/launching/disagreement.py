# SPDX-License-Identifier: Apache-2.0
"""What the processes of one run must have in common, and how a difference is said."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from .. import _entry_points

#: what is computed depends on their versions, and on those of the packages that add commands
PACKAGES = ("beitv2-core", "paddlepaddle", "paddlepaddle-gpu", "numpy", "scipy", "Pillow")
COMMANDS = "beitv2.commands"
#: a clock that is wrong by more is a host that is not set up
CLOCK_SECONDS = 60.0
SHOWN = 8


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that are installed."""
    plugins = sorted(module.replace("_", "-") for module in _entry_points.modules(COMMANDS))
    return {"python": platform.python_version(), **versions_of((*PACKAGES, *plugins))}


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """The versions of those of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for every name whose value is not the same for all; facts: "process 0" or the like -> names and values."""
    names = sorted({name for one in facts.values() for name in one})
    lines = []
    for name in names:
        having: dict[str, list[str]] = {}
        for who, one in facts.items():
            having.setdefault(repr(one[name]) if name in one else "nothing", []).append(who)
        if len(having) > 1:
            lines.append(f"{name}: " + "; ".join(f"{value} ({', '.join(found)})" for value, found in having.items()))
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return lines[:SHOWN] + more


def clocks_apart(times: Mapping[str, float]) -> list[str]:
    """A line where clocks that were read at the same moment differ; times: "process 0" or the like -> s since 1970."""
    late, early = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    apart = times[early] - times[late]
    if apart <= CLOCK_SECONDS:
        return []
    return [f"clock: that of {late} is {apart:.0f} s behind that of {early}, more than {CLOCK_SECONDS:g} s; set them "
            "by NTP"]
