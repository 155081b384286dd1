# SPDX-License-Identifier: Apache-2.0
"""`beitv2 replay`: the step whose loss was not finite, once more."""

from __future__ import annotations

from pathlib import Path

import typer


def replay(
    file: Path = typer.Argument(..., help="failing_batch_step_N_rank_R.npz of a run folder; the weights lie beside it",
                                show_default=False),
) -> None:
    """Compute the step that ended a run by a non-finite loss again, and say where the first such value appears.

    Exit code 1 where the loss is another number now.
    """
    from ..assembly.replaying import replay_file

    done = replay_file(file)
    for line in done.lines():
        typer.echo(line)
    if not done.found.same:
        raise typer.Exit(1)
