# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written beside the training, and the newest one read once on every machine.

The training thread copies what a checkpoint holds; a thread writes the copy.  A thread and no process: hashing, writing
and syncing release Python's lock (beside them no Python code waited longer than 36 ms, 1.3 GB written on two busy
cores), and a process that has started Paddle's threads must not fork.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beitv2_core.engine import distributed
from beitv2_core.engine.optim import optimizer_state
from beitv2_core.engine.sharding import ShardedOptimizer
from beitv2_core.errors import CheckpointError, OutputError

log = logging.getLogger("beitv2_core")
#: a training that has waited so long for the disk says so, and again whenever the time has doubled
TELL_AFTER_S = 1.0
#: how long a process that must end because another one is gone lets its checkpoint be finished
LAST_WRITE_S = 20.0
#: name of the writing thread
THREAD = "checkpoint"


class CheckpointWriter:
    """Writes checkpoints in a thread, at most one at a time.

    store: its `save` is called in that thread, as is `check` once the checkpoint is whole: it raises OutputError where
    the run folder was removed.  What either raises is raised in the training thread by the next call of any method but
    `close`.  advice: what to do about a slow disk.
    """

    def __init__(self, store: Any, check: Callable[[], None], advice: str):
        self.store, self.check, self.advice = store, check, advice
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step, self._took = 0, 0.0
        self._waited, self._tell_at = 0.0, TELL_AFTER_S

    def save(self, step: int, weights: Mapping[str, Any], optimizer: Mapping[str, Any], state: Mapping[str, Any],
             config: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, once the one before is written.

        The arrays of weights and optimizer must be the caller's copies, which nobody changes; `state` is copied here.
        """
        self.wait_for_turn(step)
        self._step = step
        thread = threading.Thread(target=self._write, name=THREAD,
                                  args=(step, weights, optimizer, copy.deepcopy(state), config))
        thread.start()
        self._thread = thread

    def wait_for_turn(self, step: int) -> None:
        """Wait until nothing is being written, before the copies for the checkpoint of `step` are made."""
        if self._thread is None:
            return
        before, began = self._step, time.perf_counter()
        self.wait()
        self._waited += time.perf_counter() - began
        if self._waited >= self._tell_at:
            self._tell_at = 2 * self._waited
            log.warning("the disk is slower than the training: the checkpoint of step %d took %.1f s to write, so that "
                        "that of step %d had to wait. The training has waited %.1f s for the disk so far. %s",
                        before, self._took, step, self._waited, self.advice)

    def poll(self) -> None:
        """Raise the error of a checkpoint that has ended; say that it is saved otherwise. Waits for nothing."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written; raises what the writing raised."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        log.info("the checkpoint of step %d is saved; it was written in %.1f s beside the training", self._step,
                 self._took)

    def close(self) -> None:
        """`wait` for a run that ends by an error: one of the writing is logged, since the other one is raised."""
        try:
            self.wait()
        except Exception as error:
            log.error("%s", error)

    def let_finish(self) -> None:
        """Wait, at most `LAST_WRITE_S` seconds: from another thread, when this process is about to be ended."""
        thread = self._thread
        if thread is not None:
            thread.join(LAST_WRITE_S)

    def _write(self, *content: Any) -> None:
        began = time.perf_counter()
        try:
            self._save_checked(*content)
        except BaseException as error:  # raised again in the training thread
            self._error = error
        self._took = time.perf_counter() - began

    def _save_checked(self, *content: Any) -> None:
        try:
            self.store.save(*content)
        except CheckpointError:
            try:
                self.check()
            except OutputError:  # the folder was removed meanwhile: the copy is all there is of the run
                self.store.save(*content)
                raise
            raise
        self.check()


def copy_of(model: Any, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies of the weights and of the optimizer's state, in the main process; empty in the others.

    Every process must call it: a divided state is gathered.  They are in the host's memory, whatever the device: with
    AdamW three times the bytes of the weights.
    """
    main = distributed.is_main()
    state = optimizer_state(optimizer, model) if main or isinstance(optimizer, ShardedOptimizer) else {}
    return {name: value.numpy() for name, value in model.state_dict().items()} if main else {}, state


def newest_checkpoint(store: Any, resume: str | Path | None) -> tuple[Path | None, Callable[[], Any]]:
    """The checkpoint that a run continues from (None: none) and a function that reads it; all processes must call it.

    resume: as in `TrainLoop.run`.  The first process of every machine checks the hashes; the others wait for it and
    read the same files without hashing them again.  Raises CheckpointError for a damaged one that was asked for.
    """
    auto = resume is None or resume == "auto"
    first = distributed.is_first_here()
    found, saved = None if auto else Path(str(resume)), None
    if first:
        found = store.latest() if auto else found
        saved = None if found is None else store.load(found)
    steps = distributed.all_values(_NOT_FIRST if not first else _NONE if saved is None else saved.step)
    if not first and auto:  # ranks of one machine follow each other
        step = next(one for one in reversed(steps[:distributed.rank()]) if one != _NOT_FIRST)
        found = None if step == _NONE else store.path_of(step)
    return found, lambda: store.load(found, checked=True) if saved is None else saved


#: in place of a step: there is no checkpoint; this process did not look
_NONE, _NOT_FIRST = -1, -2
