# SPDX-License-Identifier: Apache-2.0
"""Runs `beitv2` commands in forks of a process that has imported everything: a run starts in a fraction of a second.

The process computes nothing itself, so a fork finds no half-used thread pool. It reads one JSON list a line: log file,
injection and a command's arguments, answered with the fork's number; or nothing, answered with its exit code when it
has ended.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import beitv2_core  # noqa: F401  before paddle


class Warm:
    """The warm process, seen from a test: one command at a time."""

    def __init__(self) -> None:
        self._server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def start(self, log: Path, command: list[Any], inject: Sequence[Any] = ()) -> int:
        """Start a command, its output in `log`; returns the process's number.

        inject: name of a function of `injections.py` to call first in its process, and the function's arguments.
        """
        return self._ask([str(log), list(inject), *map(str, command)])

    def wait(self) -> int:
        """The exit code of the command that was started, negative for a signal; until then its number stays taken."""
        return self._ask([])

    def run(self, log: Path, command: list[Any], code: Optional[int] = 0, inject: Sequence[Any] = ()) -> str:
        """Run a command to its end and return its output; it must end with `code` (None: any)."""
        log.unlink(missing_ok=True)
        self.start(log, command, inject)
        found = self.wait()
        output = log.read_text(errors="replace")
        assert code is None or found == code, f"ended with {found}, not {code}: {output}"
        return output

    def close(self) -> None:
        """End the warm process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def _ask(self, question: list[Any]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def _run(log: str, inject: list[Any], command: list[str]) -> None:
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 70
    try:
        import injections

        from beitv2_core.cli import app
        from beitv2_core.files import large

        large.BUFFER = 4096  # small checkpoints go past the system's memory, as large ones do
        if inject:
            getattr(injections, inject[0])(*inject[1:])
        sys.argv = ["beitv2", *command]
        app(command, prog_name="beitv2")
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)


def _serve() -> None:
    for name in ("beitv2_core.cli", "beitv2_core.assembly", "beitv2_core.viz.curves", "beitv2_cls.assembly",
                 "beitv2_seg.assembly"):
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    number = 0
    for line in iter(sys.stdin.readline, ""):
        question = json.loads(line)
        if question:
            number = os.fork()
            if number == 0:
                answers.close()
                _run(question[0], question[1], question[2:])
            answers.write(f"{number}\n")
        else:
            answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])}\n")


if __name__ == "__main__":
    _serve()
