# SPDX-License-Identifier: Apache-2.0
"""What a resume compares before it goes on with a checkpoint: its arrays, its settings, its images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beitv2_core.engine import distributed
from beitv2_core.engine.trackers import flat
from beitv2_core.errors import CheckpointError, ConfigError, DataError

log = logging.getLogger("beitv2_core")


def check_arrays(state: Mapping[str, Any], saved: Mapping[str, Any], source: Path) -> None:
    """CheckpointError where a checkpoint's weights are not those of this model."""
    wrong = [name for name in set(state) ^ set(saved)] or [
        name for name, value in state.items() if list(value.shape) != list(saved[name].shape)]
    if wrong:
        raise CheckpointError(
            f"{source}: not of this model; {len(wrong)} arrays differ ({', '.join(sorted(wrong)[:4])}). "
            "Use the settings it was made with, or another output folder."
        )


def check_settings(before: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str], source: Path) -> None:
    """ConfigError listing what was changed of the settings, but for the keys, or their beginnings, in `free`."""
    before, now = flat(before), flat(now)
    changed = [key for key in sorted(set(before) | set(now))
               if before.get(key) != now.get(key) and not key.startswith(tuple(free))]
    if changed:
        listed = ", ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise ConfigError(
            f"{source}: the run was started with other settings ({listed}). A resumed run must equal the "
            "uninterrupted one: use the same settings, or another output folder."
        )


def check_data(before: str | None, now: str | None, source: Path, *, allowed: bool, key: str) -> None:
    """DataError where the images are others, a warning where that is `allowed` by the setting `key`."""
    if before is None or now is None or before == now:  # None: drawn, or saved before it was kept
        return
    what = f"{source}: the run was trained on other images; their names, labels or bytes differ from those given"
    if not allowed:
        raise DataError(f"{what}. A resumed run must equal the uninterrupted one: give it the same images (the "
                        f"folder may have moved), or set {key}=true to continue with these.")
    if distributed.is_main():
        log.warning("%s; the run continues with those given, because %s=true is set.", what, key)
