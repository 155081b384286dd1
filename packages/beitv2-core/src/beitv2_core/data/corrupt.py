"""Counting files that cannot be decoded, and stopping when there are too many."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import DataError

logger = logging.getLogger("beitv2_core")

DEFAULT_REPORT = "corrupt_files.txt"


class CorruptFiles:
    """Remember every undecodable file once, log it, and raise DataError above a share of `max_share` of `total` files.

    report: file that receives the list (path, tab, reason) when the limit is passed; default `corrupt_files.txt` in
    the working directory; key: the setting of `max_share`, for the error. In a worker process `defer` is True: files
    are only collected for the parent (`drain`).
    """

    def __init__(self, total: int, max_share: float, report: str | Path | None = None, *,
                 key: str = "data.max_corrupt") -> None:
        self.total = total
        self.max_share, self.key = max_share, key
        self.report = Path(DEFAULT_REPORT if report is None else report)
        self.found: dict[str, str] = {}
        self.defer = False
        self._pending: list[tuple[str, str]] = []

    def add(self, path: str, reason: str) -> None:
        """Note that `path` could not be decoded; raises DataError when that makes too many."""
        if path in self.found:
            if self.defer:
                self._pending.append((path, reason))
            return
        self.found[path] = reason
        if self.defer:
            self._pending.append((path, reason))
            return
        logger.warning("%s cannot be decoded (%s); another sample takes its place.", path, reason)
        if len(self.found) > self.max_share * self.total:
            raise DataError(self._write())

    def drain(self) -> list[tuple[str, str]]:
        """Hand over what was collected since the last call."""
        pending, self._pending = self._pending, []
        return pending

    def _write(self) -> str:
        lines = "".join(f"{path}\t{reason}\n" for path, reason in sorted(self.found.items()))
        first = next(iter(sorted(self.found)))
        try:
            self.report.parent.mkdir(parents=True, exist_ok=True)
            self.report.write_text(lines, encoding="utf-8", errors="surrogateescape")
            where = f"The list is in {self.report}."
        except OSError as error:
            where = f"The list could not be written to {self.report} ({error}):\n{lines}"
        return (
            f"{len(self.found)} of {self.total} files cannot be decoded (the first: {first}); {self.key} allows "
            f"{self.max_share:.4%}. {where} Repair or remove them, or raise {self.key}."
        )
