# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: the command line in processes of their own, for comparisons of several trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import BEiTError


def run_trial(arguments: Sequence[str], output: Path) -> None:
    """Run `beitv2 ARGUMENTS` on one processor core; small models gain little from more threads.

    Raises BEiTError with the last lines of a run that fails; `output` names it.
    """
    done = subprocess.run([sys.executable, "-m", "beitv2_core.cli", *map(str, arguments)], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        raise BEiTError(f"{output}: the run failed:\n{(done.stdout + done.stderr)[-2000:]}")
