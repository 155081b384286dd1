# SPDX-License-Identifier: Apache-2.0
"""Progress of a long run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Optional

log = logging.getLogger("beitv2_core")
#: what the caller asked for: a bar, silence, or None: a bar on a terminal, else lines of the log
_asked: ContextVar[Optional[bool]] = ContextVar("progress", default=None)


@contextlib.contextmanager
def showing(asked: Optional[bool]) -> Iterator[None]:
    """The block in which progress is a bar (True), silent (False), or what fits the standard error (None)."""
    token = _asked.set(_asked.get() if asked is None else asked)
    try:
        yield
    finally:
        _asked.reset(token)


class Progress:
    """Step, images/s, ETA and chosen metrics of a run of `total` steps. Silent unless `enabled` (the main process).

    Where `showing` asks for it, silent all the same, or a live bar on what is no terminal (a notebook).

    One inside another (an evaluation during training) writes lines: a terminal shows one live bar.
    """

    _shown: Progress | None = None

    def __init__(self, title: str, total: int, start: int, *, images_per_step: int, enabled: bool = True):
        self.title, self.total, self.start = title, total, start
        self.images_per_step = images_per_step
        self.began = time.monotonic()
        self._last = (start, self.began)
        self._bar: Any = None
        asked = _asked.get()
        self.enabled = enabled and asked is not False
        self._live = self.enabled and (asked is True or sys.stderr.isatty())

    def __enter__(self) -> Progress:
        if self._live and Progress._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                            TextColumn("{task.fields[shown]}"), console=Console(stderr=True))
            self._bar.start()
            Progress._shown = self
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.start, shown="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            Progress._shown = None
            self._bar.stop()

    def advance(self, done: int) -> None:
        """`done` steps are finished."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def images_per_second(self, done: int) -> float:
        """Images per second of all processes since the last call."""
        now = time.monotonic()
        (before, then), self._last = self._last, (done, now)
        return (done - before) * self.images_per_step / max(now - then, 1e-9)

    def say(self, done: int, values: Mapping[str, float]) -> None:
        """Print the values measured after `done` steps as a permanent line, also on a terminal."""
        if not self.enabled:
            return
        line = f"{self.title}  step {done}/{self.total}  measured: {_words(values)}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            log.info("%s", line)

    def line(self, done: int, values: Mapping[str, float]) -> None:
        """Show one line of metrics after `done` steps."""
        if not self.enabled:
            return
        shown = _words(values)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, shown=shown)
            return
        rate = (done - self.start) / max(time.monotonic() - self.began, 1e-9)
        left = (self.total - done) / rate if rate else 0.0
        log.info("%s  step %d/%d  eta %d:%02d  %s", self.title, done, self.total, left // 60, left % 60, shown)


def _words(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {100 * value:.4g} %" if name.startswith("usage") else f"{name} {value:.4g}"
                     for name, value in values.items())
