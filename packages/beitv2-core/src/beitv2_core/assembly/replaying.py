# SPDX-License-Identifier: Apache-2.0
"""A saved step, whose loss was not finite, computed again with the run's own model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .. import _entry_points
from ..config import parse_config
from ..config.load import kind_of
from ..engine.failing import FailingStep, Replayed, read_failing, replay
from ..errors import CheckpointError
from .training import build_training

ENTRY_POINTS = "beitv2.runs"
#: kind of a run -> what makes its training loop of the settings
OURS = {"tokenizer": build_training, "pretrain": build_training}
MOST_NAMED = 8


class ReplayedFile(NamedTuple):
    """What the file holds and what was computed from it."""

    saved: FailingStep
    found: Replayed

    def lines(self) -> Iterator[str]:
        """The report, a line per fact."""
        saved, found = self.saved, self.found
        of_run, paths = saved.of_run, getattr(saved.batches[saved.number], "paths", [])
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        yield (f"step {of_run.step}, process {of_run.rank} of {of_run.processes}, batch {saved.number + 1} of "
               f"{len(saved.batches)}: {', '.join(paths[:MOST_NAMED])}{more}")
        yield f"loss then: {saved.loss!r}"
        yield f"loss now:  {found.loss!r} ({'the same' if found.same else 'another number'})"
        yield f"gradient norm then: {saved.gradient_norm!r}" + (
            "" if of_run.processes == 1 else ", of all processes together")
        yield f"gradient norm now:  {found.gradient_norm!r}"
        if found.where is not None:
            yield f"first value that is not finite: {found.where}"
        elif found.gradients:
            yield (f"every value of the forward pass is finite; {len(found.gradients)} gradients are not: "
                   f"{', '.join(found.gradients[:MOST_NAMED])}")
        else:
            yield "every value is finite"
        if not found.same and of_run.processes > 1:
            yield ("The step was computed by several processes: what its loss takes from the images of the others is "
                   "missing here.")
        elif not found.same:
            yield ("The step does not give its number again: on the machine it was saved on, a processor or its memory "
                   "erred then, or errs now.")


def replay_file(path: Path) -> ReplayedFile:
    """Compute the step of a failing_batch_step_N_rank_R.npz again, from the weights beside it and the settings in it.

    The run's data and whatever its settings name must be where they were.  Nothing is written or trained.
    Raises CheckpointError where the file is none of these, ConfigError or DataError as the run itself.
    """
    saved = read_failing(path)
    kind = kind_of(saved.of_run.config)
    if kind is None:
        raise CheckpointError(f"{path}: its settings are of no known kind of run. Use the version that wrote it.")
    build = _entry_points.load(ENTRY_POINTS, kind, OURS, f"{path}: kind of run")
    loop = build(parse_config(saved.of_run.config, source=str(path), written_by=""))
    return ReplayedFile(saved, replay(saved, loop.task))
