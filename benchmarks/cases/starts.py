# SPDX-License-Identifier: Apache-2.0
"""How long the command `beitv2` takes to answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.timing import timed

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "digit_scenes.yml"


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, those of subgroups included."""
    for name, command in group.commands.items():
        yield (*before, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))


def run(*words: str) -> None:
    """One call of `beitv2`; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "beitv2_core.cli", *words], check=True, capture_output=True)


def start_up() -> dict[str, Any]:
    """`beitv2 COMMAND --help` of every command, and `beitv2 config` on a real file."""
    from typer.main import get_command

    from beitv2_core.cli import app

    helps = {" ".join(words): min(timed(lambda w=words: run(*w, "--help"), 2, warm_up=0))
             for words in commands(get_command(app))}
    return {"help": helps, "config": timed(lambda: run("config", str(CONFIG)), 3)}
