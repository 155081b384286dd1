# SPDX-License-Identifier: Apache-2.0
"""Silent corruption during a run: when to look for it, what is written about it, and how often to go back."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beitv2_core.engine import distributed
from beitv2_core.engine.agreement import COMPARISON, FROZEN, REPLAY, Difference, StateDiffers, compare
from beitv2_core.engine.run_folder import as_output_error
from beitv2_core.engine.snapshot import Snapshot
from beitv2_core.engine.step import Precision
from beitv2_core.engine.task import Task
from beitv2_core.errors import CorruptionError, NonFiniteLossError
from beitv2_core.files.atomic import append_to, keep_lines

log = logging.getLogger("beitv2_core")
#: times that a run goes back to one and the same step before it ends
MOST_RETURNS = 3
FILE = "corruption.jsonl"
FAILED = "loss or gradient norm"
Numbers = Mapping[str, float]


class Guard:
    """Looks for numbers of a run that nobody computed: flipped bits, processors that err.

    check_every: steps between comparisons of the processes (`agreement.py`), 0: never; a step that is saved is compared
    first, so that every checkpoint is one on which all agreed.  verify_every: every so many steps a step is computed
    twice from the same state, and the results are compared bit for bit; 0: never.  folder: of the run.
    Neither changes what is computed.  Found differences are written to corruption.jsonl in the run folder.
    """

    def __init__(self, task: Task, optimizer: Any, precision: Precision, folder: Path, *, check_every: int,
                 verify_every: int):
        self.task, self.optimizer, self.precision, self.folder = task, optimizer, precision, folder
        self.check_every, self.verify_every = check_every, verify_every
        self.start: Snapshot | None = None  #: where the run began, until its first checkpoint
        self.agreed = 0
        self._back: tuple[int, int] = (-1, 0)  # the step that the run went back to last, and how often
        self._made: dict[int, Numbers] = {}  # numbers of the steps since the last checkpoint
        self._abandoned: dict[int, Numbers] = {}
        self._repeated_until = self._first_other = 0

    @property
    def _compares(self) -> bool:
        return self.check_every > 0 and distributed.world_size() > 1

    def begin(self, step: int, *, saved: bool) -> None:
        """The run begins after `step`; saved: its folder has a checkpoint of that step to go back to."""
        self.agreed = step
        if (self._compares or self.verify_every) and not saved:
            self.start = Snapshot(self.task, self.optimizer, self.precision)

    # -- a step --------------------------------------------------------------------------------------------------------

    def take(self, update: Callable[[], dict[str, float]], step: int) -> dict[str, float]:
        """Compute `update`, the step from `step` to `step` + 1; twice where it is to be verified.

        Raises StateDiffers where the two differ, or where some processes found a loss or norm that is not finite and
        others did not; NonFiniteLossError where all of them did.
        """
        verified = self.verify_every > 0 and (step + 1) % self.verify_every == 0
        before = self._snapshot() if verified else None
        metrics = self._once(update, step)
        if before is not None:  # two copies of the state, then
            first = self._snapshot()
            before.restore()
            self._tell_all(self._differing(update, step, first, metrics), step)
        if self._compares or self.verify_every:
            self._made[step + 1] = metrics
            self._compare_with_abandoned(step + 1)
        return metrics

    def _differing(self, update: Callable[[], dict[str, float]], step: int, first: Snapshot,
                   metrics: Numbers) -> list[str]:
        """What is another at the second time that the step is computed."""
        try:
            again = self._once(update, step)
        except NonFiniteLossError:
            return [FAILED]
        return first.differences() + [
            name for name, value in again.items() if not _equal(value, metrics[name])]

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.task, self.optimizer, self.precision)

    def _once(self, update: Callable[[], dict[str, float]], step: int) -> dict[str, float]:
        if not self._compares or self.precision.scaler is not None:  # whose overflows are each process's own
            return update()
        failure: NonFiniteLossError | None = None
        metrics: dict[str, float] = {}
        try:
            metrics = update()
        except NonFiniteLossError as error:
            failure = error
        failed = distributed.all_values(int(failure is not None))
        if any(failed) and not all(failed):  # equal gradients have equal norms
            few = [rank for rank, one in enumerate(failed) if bool(one) == (2 * sum(failed) < len(failed))]
            who = tuple(few) if 2 * len(few) < len(failed) else ()
            raise StateDiffers(Difference(step + 1, self.agreed, (FAILED,), who, COMPARISON))
        if failure is not None:
            found = compare(self.task, self.optimizer, step=step + 1, after=self.agreed)
            if found is not None:
                raise StateDiffers(found)
            raise failure
        return metrics

    def _tell_all(self, names: list[str], step: int) -> None:
        """StateDiffers in every process where a step that was computed twice differs in one of them."""
        wrong = tuple(rank for rank, count in enumerate(distributed.all_values(len(names))) if count)
        if wrong:
            here = names if names else [f"tensors of process {wrong[0]} (see its log)"]
            if names and distributed.world_size() > 1:
                log.error("process %d: step %d computed twice differs in %s", distributed.rank(), step + 1, here)
            raise StateDiffers(Difference(step + 1, step, tuple(here), wrong, REPLAY))

    # -- comparisons ---------------------------------------------------------------------------------------------------

    def check(self, step: int, *, saving: bool) -> None:
        """Compare the processes where it is due after `step`; raises StateDiffers in all of them where they differ.

        Steps that are repeated are compared one by one, so that a fault that comes again is found where it is.
        """
        if self._compares and (saving or step % self.check_every == 0 or step <= self._repeated_until):
            found = compare(self.task, self.optimizer, step=step, after=self.agreed)
            if found is not None:
                raise StateDiffers(found)
            self.agreed = step

    def saved(self) -> None:
        """There is a checkpoint of this step: nothing before it is needed any more."""
        self.start = None
        self._made.clear()

    # -- going back ----------------------------------------------------------------------------------------------------

    def going_back(self, found: Difference, to: int) -> None:
        """Write down what was found; the run is back after step `to`.

        Raises CorruptionError once it was there `MOST_RETURNS` times without getting any further.
        """
        count = self._back[1] + 1 if self._back[0] == to else 1
        self._back = to, count
        self._abandoned = {step: numbers for step, numbers in self._made.items() if step > to}
        self._made = {}
        self._repeated_until, self._first_other, self.agreed = found.step, 0, to
        self._write({"found_at_step": found.step, "after_step": found.after, "by": found.by,
                     "processes": list(found.processes), "tensors": list(found.names), "went_back_to_step": to,
                     "times_there": count})
        if any(name.startswith(FROZEN) for name in found.names):
            raise CorruptionError(
                f"{self.folder}: {found.sentence()}. That network is only read, and no checkpoint holds it. Start "
                f"again with --resume auto: the run loads it anew and goes on from step {to}, which is right.")
        if count > MOST_RETURNS:
            raise CorruptionError(
                f"{self.folder}: {found.sentence()}. The run went back to step {to} {MOST_RETURNS} times and it "
                "happened again: this is no accident. A processor or memory of that process's host is faulty, or the "
                "hosts compute differently (other processors, GPUs, libraries or numbers of threads; on a GPU, kernels "
                "without a fixed order of sums). Test the host, leave it out, or make the hosts equal; then continue "
                "with --resume auto. See docs/troubleshooting.md#numbers-that-nobody-computed.")
        if distributed.is_main():
            log.error("%s. The run goes on from step %d, which is right; see %s.", found.sentence(), to,
                      self.folder / FILE)

    def _compare_with_abandoned(self, step: int) -> None:
        """Find the first step whose loss and norm are not those of the steps that were given up."""
        if not self._abandoned:
            return
        before = self._abandoned.pop(step, None)
        now = self._made[step]
        if before is not None and not self._first_other and not all(
                name in before and _equal(value, before[name]) for name, value in now.items()):
            self._first_other = step
        if self._abandoned:
            return
        first = min((one for one in distributed.all_values(self._first_other) if one), default=0)
        self._write({"repeated_until_step": step, "first_other_numbers_at_step": first or None})
        if distributed.is_main():
            log.warning("steps up to %d were repeated; %s", step, f"loss and norm of step {first} were the first wrong "
                        "ones" if first else "their losses and norms are the same as before: the flip had no effect "
                        "on them yet")

    def _write(self, line: Mapping[str, Any]) -> None:
        if distributed.is_main():
            with as_output_error(self.folder), append_to(self.folder / FILE) as file:
                file.write(json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **line}) + "\n")
                keep_lines(file)


def _equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
