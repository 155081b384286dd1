# SPDX-License-Identifier: Apache-2.0
"""The command `beitv2`. Importing it costs no Paddle; each command imports what it needs when it runs.

Exit codes: 0 done, 1 the loss became non-finite, 2 something the user can correct (message on stderr),
128 + n stopped by signal n after saving a checkpoint.
`BEITV2_DEBUG=1` shows the traceback instead of the message.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import sys
from importlib import metadata
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from . import _entry_points, runtime  # runtime before anything loads paddle: threads and the MKL path
from .commands import add_core_commands
from .errors import BEiTError, NonFiniteLossError

ENTRY_POINTS = "beitv2.commands"
NO_PADDLE = (
    "beitv2: Paddle is not installed. Type: pip install 'paddlepaddle>=2.6.2' "
    "(CPU; or 'beitv2-core[cpu]'; for GPUs see https://www.paddlepaddle.org.cn/en/install)."
)


class _Console(logging.StreamHandler):
    """Log lines on the current standard error."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))


class _Group(TyperGroup):
    """Shows help texts as they are written, and turns the errors of `beitv2_core.errors` into one message and an exit
    code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.rich_markup_mode == "rich":
            _escape_help(self)

    def invoke(self, ctx: Any) -> Any:
        if os.environ.get("BEITV2_DEBUG") == "1":
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except BEiTError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(exit_code(error)) from None
        except ModuleNotFoundError as error:
            if error.name != "paddle":
                raise
            typer.echo(NO_PADDLE, err=True)
            raise typer.Exit(2) from None


def _escape_help(command: Any) -> None:
    """Keep rich from taking `beitv2-core[parquet]` in a help text of the command, or of one below it, for markup."""
    for part in (command, *command.params):
        for name in ("help", "short_help"):
            text = getattr(part, name, None)
            if text:
                setattr(part, name, escape(text))
    for inner in getattr(command, "commands", {}).values():
        _escape_help(inner)


def exit_code(error: BEiTError) -> int:
    """1 for a non-finite loss, 128 + n for signal n (as shells report it), 2 for errors that the user can correct."""
    stopped_by = getattr(error, "signal_number", None)
    if stopped_by is not None:
        return 128 + int(stopped_by)
    return 1 if isinstance(error, NonFiniteLossError) else 2


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="BEiT v2 on PaddlePaddle: train a visual tokenizer, pretrain a backbone with it, evaluate and show both.",
)


def _show_versions(asked: bool) -> None:
    """Print what a report of a fault should name, and end; nothing is imported for it."""
    if not asked:
        return
    names = ["beitv2-core", *sorted(name.replace("_", "-") for name in _entry_points.modules(ENTRY_POINTS)),
             "paddlepaddle", "paddlepaddle-gpu"]
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            typer.echo(f"{name} {metadata.version(name)}")
    typer.echo(f"Python {platform.python_version()}, {platform.platform()}")
    raise typer.Exit


@app.callback()
def _start(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="also show debug messages"),
    version: bool = typer.Option(False, "--version", callback=_show_versions, is_eager=True,
                                 help="print the versions of the packages, Paddle and Python"),
) -> None:
    runtime.keep_freed_memory()
    first_rank = os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
    packages = {"beitv2_core", *_entry_points.modules(ENTRY_POINTS)}
    for logger in map(logging.getLogger, packages):
        logger.setLevel(logging.DEBUG if verbose else logging.INFO if first_rank else logging.WARNING)
        for old in [handler for handler in logger.handlers if isinstance(handler, _Console)]:
            logger.removeHandler(old)  # of an earlier call in this process, whose stderr may be closed
        if not logger.handlers:
            logger.addHandler(_Console())
            logger.propagate = False


def _add_foreign_commands() -> None:
    """Let other packages add commands: each entry point is a function `register(app)`."""
    for name in _entry_points.names(ENTRY_POINTS, {}):
        try:
            _entry_points.load(ENTRY_POINTS, name, {}, "commands")(app)
        except Exception as error:  # a broken package must not disable the other commands
            typer.echo(f"warning: the commands {name!r} are not available: {error}", err=True)


add_core_commands(app)
_add_foreign_commands()


def main() -> None:
    """Entry point of the script `beitv2`."""
    # A file name may hold bytes that are no text, and a terminal may not know Chinese: shown escaped, never an end.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="beitv2")


if __name__ == "__main__":
    main()
