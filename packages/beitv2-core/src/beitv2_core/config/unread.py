# SPDX-License-Identifier: Apache-2.0
"""Settings of a section that its kind does not read: a folder has no size, a random mask no blocks."""

from __future__ import annotations

from typing import Any

from ..datasets import SOURCES, Source

#: section -> the key that says which kind it is
KIND_KEYS = {"data": "dataset", "mask": "kind"}
#: third parties' kinds ("") read `options`, which ours do not
UNREAD_BY_MASK: dict[str, tuple[str, ...]] = {
    "blockwise": ("options",),
    "random": ("min_block", "max_block", "min_aspect", "options"),
    "": ("min_block", "max_block", "min_aspect"),
}
#: keys that come together in resolved settings only: what a checkpoint holds
RESOLVED = {
    "data": {"size", "scene_size", "scene_digits", "scene_seed", "shard_window", "list_file", "max_corrupt"},
    "mask": {"min_block", "max_block", "min_aspect", "options"},
}


def unread_settings(section: str, kind: str) -> tuple[str, ...]:
    """The keys of the section `data` or `mask` that this data.dataset or mask.kind does not read."""
    if section == "mask":
        return UNREAD_BY_MASK.get(kind, UNREAD_BY_MASK[""])
    return _unread_by(SOURCES[kind]) if kind in SOURCES else ()


def _unread_by(source: Source) -> tuple[str, ...]:
    """What some data set reads and this one does not."""
    return tuple(dict.fromkeys(key for one in SOURCES.values() for key in one.reads if key not in source.reads))


def without_unread(values: Any, section: str) -> Any:
    """Resolved values, as a checkpoint holds them, without what their kind does not read: it did not then either.

    Values that people write are left as they are: the section refuses what it does not read.
    """
    if not isinstance(values, dict) or not RESOLVED[section] <= set(values):
        return values
    unread = unread_settings(section, str(values.get(KIND_KEYS[section])))
    return {key: value for key, value in values.items() if key not in unread}
