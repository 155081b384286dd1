# SPDX-License-Identifier: Apache-2.0
"""Several runs in parallel, each in its own process, for comparisons of trainings."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from ..errors import BEiTError
from ..runtime import physical_cores

log = logging.getLogger("beitv2_core")
#: seconds between two lines of the log while nothing finishes
SAY_EVERY_S = 20.0
Result = TypeVar("Result")


def run_trial(arguments: Sequence[str], output: Path) -> None:
    """Run `beitv2 ARGUMENTS` on one processor core; small models gain little from more threads.

    On Linux the run ends with this process, however that ends: going on alone, it would hold the lock of its folder
    against the next start.  Raises BEiTError with the last lines of a run that fails; `output` names it.
    """
    command = [sys.executable, "-m", "beitv2_core.launching.worker", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        raise BEiTError(f"{output}: the run failed:\n{(done.stdout + done.stderr)[-2000:]}")


def run_side_by_side(trials: Mapping[str, Callable[[], Result]], folder: Path) -> dict[str, Result]:
    """The result of every trial; as many run in parallel as there are processor cores.

    trials: by the name of the run folder in `folder`.  Progress is logged when a trial ends, and every `SAY_EVERY_S`.
    The first error is raised when the running trials have ended; trials that have not begun are not started.
    """
    log.info("compare: %d runs in %s", len(trials), folder)
    began = time.monotonic()
    with ThreadPoolExecutor(physical_cores()) as pool:
        running = {pool.submit(trial): name for name, trial in trials.items()}
        results: dict[str, Result] = {}
        left = set(running)
        try:
            while left:
                done, left = wait(left, timeout=SAY_EVERY_S, return_when=FIRST_COMPLETED)
                results.update({running[future]: future.result() for future in done})
                steps = (f"; {running[future]} step {_newest_step(folder / running[future])}" for future in left
                         if future.running())
                minutes, seconds = divmod(int(time.monotonic() - began), 60)
                log.info("compare: %d of %d runs finished in %d:%02d%s", len(results), len(trials), minutes, seconds,
                         "".join(steps))
        except BaseException:
            for future in left:
                future.cancel()
            raise
    return {name: results[name] for name in trials}


def _newest_step(output: Path) -> int:
    try:
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, LookupError):  # not begun, or a line half written
        return 0
