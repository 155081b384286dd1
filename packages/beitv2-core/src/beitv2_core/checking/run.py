# SPDX-License-Identifier: Apache-2.0
"""A whole check: plan, looks, copies, findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ..engine.progress import Progress
from .findings import Judged, judge
from .gather import Found, gather
from .parts import OTHER, Part
from .sources import plan_of
from .twins import find_twins

#: lines of the log where there is no terminal
LINES = 10


def check_data(path: str, *, test: Optional[str] = None, overrides: Sequence[str] = (), batch: Optional[int] = None,
               quick: bool = False, num_workers: int = 0, folder: Optional[Path] = None) -> Judged:
    """Look at everything that DATA names; arguments as of `beitv2 check`.

    num_workers: processes that open files; what is found does not depend on it.  folder: where results will be written,
    for the remedies.  Raises ConfigError, DataError for what cannot be checked at all.
    """
    plan = plan_of(path, test=test, overrides=overrides, batch=batch, quick=quick)
    total = sum(part.images for part in plan.parts)
    found, before = [], 0
    with Progress("check", total, 0, images_per_step=1) as shown:
        every, told = max(1, total // LINES), 0
        for part in plan.parts:

            def advance(done: int, before: int = before) -> None:
                nonlocal told
                shown.advance(before + done)
                if before + done >= told + every and before + done < total:
                    told = before + done
                    shown.line(told, {})

            found.append(gather(part, num_workers, advance))
            before += part.images
    parts = _named(plan.parts, found)
    classes = max((len(part.pixel_classes or ()) for part in parts), default=0)
    plan = plan._replace(parts=parts, uses=[use._replace(classes=use.classes if use.classes != 0 else classes)
                                            for use in plan.uses])
    compared = [number for number, part in enumerate(plan.parts) if part.looks is not None and part.role != OTHER]
    twins = [] if quick else find_twins(plan.parts, found, compared)
    return judge(plan, found, twins, folder)


def _named(parts: Sequence[Part], found: Sequence[Found]) -> list[Part]:
    """Classes of pixels, where nobody says how many there are: up to the greatest label of all splits."""
    unnamed = [number for number, part in enumerate(parts) if part.pixel_classes is None]
    known = [counts for number in unnamed for counts in [found[number].counts] if counts is not None]
    greatest = max((int(np.flatnonzero(counts[:-1]).max(initial=0)) for counts in known), default=0)
    named = list(parts)
    for number in unnamed:
        one = found[number]
        if one.counts is not None and one.having is not None:
            one.counts, one.having = (np.concatenate([values[: greatest + 1], values[-1:]])
                                      for values in (one.counts, one.having))
            named[number] = parts[number]._replace(
                pixel_classes=[str(label) for label in range(greatest + 1)], by_labels=True)
    return named
