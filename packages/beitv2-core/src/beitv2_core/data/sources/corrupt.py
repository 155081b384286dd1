# SPDX-License-Identifier: Apache-2.0
"""Counting files that cannot be decoded, and stopping when there are too many."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ...errors import DataError
from ...files.atomic import append_to, write_text_atomically

logger = logging.getLogger("beitv2_core")

DEFAULT_REPORT = "corrupt_files.txt"


class CorruptFiles:
    """Remember every undecodable file once, log it, and raise DataError above a share of `max_share` of `total` files.

    report: file that receives the list (path, tab, reason), a line as soon as a file is met; by default only when the
    limit is passed, as `corrupt_files.txt` in the working directory.  Every process of a run keeps a list of its own
    beside it (corrupt_files_1.txt, ...), and the limit holds for all of them together; so it does for a run that is
    continued, except for files that were changed since.  key: the setting of `max_share`, for the error.  In a worker
    process `defer` is True: files are only collected for the parent (`drain`).
    """

    def __init__(self, total: int, max_share: float, report: str | Path | None = None, *,
                 key: str = "data.max_corrupt") -> None:
        self.total = total
        self.max_share, self.key = max_share, key
        rank = int(os.environ.get("PADDLE_TRAINER_ID") or 0)  # set by Paddle's launcher
        self.shared = Path(DEFAULT_REPORT if report is None else report)
        self.report = self.shared if rank == 0 else _beside(self.shared, rank)
        self.at_once = report is not None
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
        listed = self._listed() if self.at_once else {}
        if self.at_once and _line(path) not in listed:
            self._append(path, reason)
        together = {**listed, **{_line(one): why for one, why in self.found.items()}}
        if len(together) > self.max_share * self.total:
            raise DataError(self._refusal(together))

    def drain(self) -> list[tuple[str, str]]:
        """Hand over what was collected since the last call."""
        pending, self._pending = self._pending, []
        return pending

    def _listed(self) -> dict[str, str]:
        """What all processes of this run, and of the run that it continues, have listed and nobody changed since."""
        found = {}
        for report in (self.shared, *self.shared.parent.glob(f"{self.shared.stem}_[0-9]*{self.shared.suffix}")):
            try:
                written = report.stat().st_mtime
                lines = report.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            except OSError:  # no list yet
                continue
            for path, _, reason in (line.partition("\t") for line in lines):
                if reason and _as_it_was(path, written):
                    found[path] = reason
        return found

    def _append(self, path: str, reason: str) -> None:
        try:
            with append_to(self.report, errors="surrogateescape") as file:
                file.write(f"{_line(path)}\t{_line(reason)}\n")
        except OSError as error:
            logger.warning("%s: the list of files that cannot be decoded is not written (%s).", self.report, error)
            self.at_once = False

    def _refusal(self, together: dict[str, str]) -> str:
        lines = "".join(f"{path}\t{_line(reason)}\n" for path, reason in sorted(together.items()))
        first = min(together)
        try:
            write_text_atomically(self.report, lines, errors="surrogateescape")
            where = f"The list is in {self.report}."
        except OSError as error:
            where = f"The list could not be written to {self.report} ({error}):\n{lines}"
        remedy = f"Repair or remove them, or raise {self.key}."
        if all("max_pixels" in reason for reason in together.values()):
            remedy = f"Raise max_pixels, or {self.key} to go without them."
        return (
            f"{len(together)} of {self.total} files cannot be decoded (the first: {first}: {together[first]}); "
            f"{self.key} allows {self.max_share:.4%}. {where} {remedy}"
        )


def _line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ").replace("\t", " ")


def _beside(report: Path, rank: int) -> Path:
    return report.with_name(f"{report.stem}_{rank}{report.suffix}")


def _as_it_was(path: str, written: float) -> bool:
    """Whether a file is older than the list it stands in; members of tar files, which are no files, are."""
    try:
        return os.stat(path).st_mtime <= written
    except NotADirectoryError:  # shard.tar/member
        return True
    except (OSError, ValueError):  # removed, as was advised; or a line with zeros, torn by a power cut
        return False
