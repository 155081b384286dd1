# SPDX-License-Identifier: Apache-2.0
"""Entry points of a group, on every supported Python."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points


def find_entry_points(group: str) -> Iterable[EntryPoint]:
    """The entry points installed packages offer in `group`."""
    if sys.version_info >= (3, 10):
        return entry_points(group=group)
    return entry_points().get(group, [])
