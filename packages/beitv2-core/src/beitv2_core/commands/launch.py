# SPDX-License-Identifier: Apache-2.0
"""`beitv2 launch`: several processes that come back when one of them is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

#: how `beitv2 launch` is put on the command line: what follows its own options is the command to launch
LAUNCH_SETTINGS = {"allow_interspersed_args": False, "ignore_unknown_options": False}


def launch(
    command: list[str] = typer.Argument(..., metavar="COMMAND...", show_default=False,
                                        help="a command of beitv2 with its arguments, e.g. pretrain CONFIG --set ..."),
    nproc_per_node: Optional[int] = typer.Option(
        None, min=1, show_default=False, help="processes of this host, on the CPU; of GPUs give --gpus"),
    gpus: Optional[str] = typer.Option(None, metavar="0,1,...", help="GPUs of this host, one process each",
                                       show_default=False),
    restarts: int = typer.Option(0, min=0, help="how often the job is started again, with --resume auto, after a "
                                                "process that was killed, stopped or cannot be reached; never after "
                                                "an error of its own, which another start would meet again"),
    nnodes: int = typer.Option(1, min=1, help="hosts; type the command on each of them"),
    rank: int = typer.Option(0, min=0, help="number of this host, 0 to nnodes - 1; host 0 decides, and nothing goes on "
                                            "without it"),
    master: Optional[str] = typer.Option(None, metavar="ADDRESS:PORT", show_default=False,
                                         help="IP address of host 0 and a free port there; of several hosts"),
    wait: float = typer.Option(15.0, min=0.0, help="seconds that host 0 waits for hosts that are not there; then the "
                                                   "job starts with those that are, and again with all when they "
                                                   "are back"),
    log_dir: Path = typer.Option(Path("log"), help="folder of the processes' output, workerlog.N; on several hosts one "
                                                   "for each"),
) -> None:
    """Start a training command in several processes, on one or more hosts, and again when one of them is lost.

    Options of this command come before COMMAND; see docs/several-machines.md.
    """
    from ..launching.run import Hosts, run_job

    code = run_job(command, Hosts(nnodes, rank, master, wait), nproc_per_node=nproc_per_node, gpus=gpus,
                   restarts=restarts, log_dir=log_dir)
    raise typer.Exit(code)
