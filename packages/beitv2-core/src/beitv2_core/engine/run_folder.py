# SPDX-License-Identifier: Apache-2.0
"""The files of a run: settings, environment, metrics, scalars of trackers, checkpoints, figures, summary."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beitv2_core.engine.trackers import TrackedRun, Tracker, VisualDL, visualdl_is_there
from beitv2_core.errors import ConfigError, OutputError
from beitv2_core.files.atomic import UNFINISHED, append_to, keep_lines, write_text_atomically
from beitv2_core.files.durable import make_folder
from beitv2_core.files.json_text import read_json_object
from beitv2_core.launching.disagreement import versions_of

try:
    import fcntl
except ModuleNotFoundError:  # Windows: an error when a run starts
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("beitv2_core")
#: errors of flock where another process holds the lock, and where the file system has no locks (some NFS, Lustre)
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
GIT_SECONDS = 10
_PACKAGES = ("beitv2-core", "paddlepaddle", "paddlepaddle-gpu", "numpy", "Pillow", "scipy", "safetensors", "pydantic")


class RunFolder:
    """One training run on disk. `open` takes the folder's lock: two runs never write into one folder.

    Only the main process opens it; the others hold the same object and write nothing. What cannot be written raises
    OutputError.  trackers: makers of what is told of every line of metrics; VisualDL is one where it is installed.
    """

    def __init__(self, path: str | Path, trackers: Sequence[Callable[[TrackedRun], Tracker]] = ()):
        self.path, self._makers = Path(path), list(trackers)
        self.checkpoints, self.figures = self.path / "checkpoints", self.path / "figures"
        self.metrics_file = self.path / "metrics.jsonl"
        self._lock: Any = None
        self._metrics: Any = None
        self._trackers: list[Tracker] = []

    def open(self) -> None:
        """Create the folder and lock it; ConfigError when another process is training there or it is not writable.

        Where the file system has no locks, a warning is logged and the run starts without a lock.
        """
        if fcntl is None:
            raise ConfigError(f"{self.path}: a run folder is locked by Python's fcntl, which {sys.platform} does not "
                              "have. Train on Linux or macOS (on Windows: in WSL).")
        try:
            make_folder(self.figures)
            self._lock = open(self.path / ".lock", "a+", encoding="ascii")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot write there: {error}. Choose another output folder.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                self._lock.close()
                self._lock = None
                raise ConfigError(
                    f"{self.path}: another process is training in this folder. Wait for it, or choose another output."
                    if error.errno in _HELD else
                    f"{self.path}: cannot be locked: {error}. Choose another output folder.") from None
            log.warning("%s: this file system has no locks (%s): nothing here notices a second run in this folder. "
                        "Make sure that there is none.", self.path, error.strerror)
        with as_output_error(self.path):
            self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Remove what a killed process left half written, here and one level below; not in other runs' folders."""
        below = [folder for folder in self.path.glob("*/") if not (folder / ".lock").exists()]
        for leftover in [found for folder in (self.path, *below) for found in folder.glob(f".*{UNFINISHED}")]:
            log.info("%s: left by a process that was killed while writing it; removed", leftover)
            leftover.unlink()

    def check_present(self) -> None:
        """Raise OutputError when the folder was removed or replaced since `open`: its lock protects nothing then."""
        try:
            here = os.path.samestat(os.stat(self.path / ".lock"), os.fstat(self._lock.fileno()))
        except FileNotFoundError:
            here = False
        if not here:
            raise OutputError(
                f"{self.path}: the run folder was removed or replaced while the run was going on (or its disk was "
                "unmounted). The newest step was saved there anew; what the folder held before is gone. See what "
                "happened, then continue with --resume auto."
            )

    def describe(self, config_yaml: str, environment: Mapping[str, Any]) -> None:
        """Write config.yml and environment.json."""
        with as_output_error(self.path):
            write_text_atomically(self.path / "config.yml", config_yaml)
            write_text_atomically(self.path / "environment.json", json.dumps(dict(environment), indent=1) + "\n")

    def start_metrics(self, step: int, config: Mapping[str, Any] | None = None) -> None:
        """Open metrics.jsonl, keeping only lines up to `step`: later ones are of steps that are repeated.

        Then start the trackers.  config: the run's settings, for them.  A run that goes back calls it again.
        """
        self._close(self._metrics, *self._trackers)
        self._metrics, self._trackers = None, []
        kept = []
        if self.metrics_file.is_file():
            for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut in half by a kill, or torn by a power cut
        with as_output_error(self.path):
            write_text_atomically(self.metrics_file, "".join(line + "\n" for line in kept))
            self._metrics = append_to(self.metrics_file)
        run = TrackedRun(self.path, step, config or {})
        with as_output_error(self.path):
            self._trackers = [VisualDL(run)] if visualdl_is_there() else []
            for make in self._makers:
                self._trackers.append(make(run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line of metrics."""
        with as_output_error(self.path):
            self._metrics.write(json.dumps({"step": step, **values}) + "\n")
            self._metrics.flush()
            for tracker in self._trackers:
                tracker.log(step, values)

    def keep_metrics(self) -> None:
        """Wait until the disk has the lines logged so far: a checkpoint is saved after them, or a power cut could leave
        it without lines of steps that no resumed run repeats."""
        with as_output_error(self.path):
            keep_lines(self._metrics)

    def log_figure(self, tag: str, path: Path, step: int) -> None:
        """Show a PNG file in the trackers too."""
        for tracker in self._trackers:
            tracker.log_figure(tag, path, step)

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        with as_output_error(self.path):
            write_text_atomically(self.path / "summary.json", json.dumps(dict(summary), indent=1) + "\n")

    def told(self, step: int) -> dict[str, Any]:
        """What summary.json tells of a training that ended with `step`; without it, the values logged then."""
        summary = read_json_object(self.path / "summary.json")
        if summary.get("steps") == step:
            return summary
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines() if self.metrics_file.is_file() else []
        logged = [values for values in map(json.loads, lines) if values.pop("step") == step]
        return {"last": {name: value for name, value in logged[-1].items() if name != "images_per_second"}
                } if logged else {}

    def close(self) -> None:
        """Close the files and give the lock back."""
        handles = (self._metrics, *self._trackers, self._lock)
        self._metrics = self._lock = None
        self._trackers = []
        self._close(*handles)

    def _close(self, *handles: Any) -> None:
        for handle in handles:
            if handle is not None:
                try:
                    handle.close()
                except OSError as error:  # what could not be written was an error when it was logged; the lock must go
                    log.warning("%s: not closed cleanly: %s", self.path, error)


@contextlib.contextmanager
def as_output_error(folder: Path) -> Iterator[None]:
    """Turn an OSError of writing into a run folder into an OutputError with advice."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder}: a file of the run could not be written: {error}. Checkpoints saved before are intact; free "
            "some space or make the folder writable, then continue with --resume auto."
        ) from error


def environment(seed: int, device: str, processes: int) -> dict[str, Any]:
    """Versions, device, seed and git commit, for environment.json and for checkpoints; collected once a run."""
    return {"python": sys.version.split()[0], "platform": platform.platform(), "versions": versions_of(_PACKAGES),
            "device": device, "processes": processes, "seed": seed, "git_commit": _git_commit(),
            "threads": os.environ.get("OMP_NUM_THREADS")}


def _git_commit() -> str | None:
    """Of the current folder: the commit of the experiment, when it is kept in git. No trouble with git ends a run."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                               errors="replace", timeout=GIT_SECONDS, check=False)
    except FileNotFoundError:
        log.debug("git is not installed: no commit in environment.json")
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("git gave no commit (%s): environment.json has none", error)
    else:
        return found.stdout.strip() or None if found.returncode == 0 else None
    return None
