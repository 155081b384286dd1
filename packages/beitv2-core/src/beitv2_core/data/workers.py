# SPDX-License-Identifier: Apache-2.0
"""Read batches in worker processes or in place: the same batches for any number of workers."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, NamedTuple, Optional, Protocol, TypeVar, runtime_checkable

import numpy as np

from ..errors import BEiTError, DataError
from ..runtime import let_waiting_threads_sleep, one_thread
from .rng import SampleRng
from .sources.sample import Dataset

log = logging.getLogger("beitv2_core")
#: seconds between two checks of the workers
POLL_S = 2.0
#: seconds without a batch until a warning
WARN_AFTER_S = 60.0
#: seconds a worker gets to end by itself
SHUTDOWN_TIMEOUT_S = 5.0


class Transform(Protocol):
    """What `Dataset.load` gave and its random generators to a dict of small arrays and numbers, always the same keys.

    It runs in the worker processes.  A transform may also be a `BatchTransform` or a `ShrinkingTransform`.
    """

    def __call__(self, sample: Any, rng: SampleRng, /) -> dict[str, Any]: ...


@runtime_checkable
class BatchTransform(Protocol):
    """A transform that also makes the batch of the stacked dicts, in the parent process."""

    def batch(self, stacked: dict[str, Any], /) -> Any: ...


@runtime_checkable
class ShrinkingTransform(Protocol):
    """A transform that says how much smaller an image may be decoded: 1, 2, 4 or 8 times; None: not at all.

    It is asked with ((width, height) of the file, generators) before the image is decoded.
    """

    shrink: Optional[Callable[[tuple[int, int], SampleRng], int]]


def stack_samples(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Put samples side by side: arrays are stacked, numbers become an array, everything else a list."""
    stacked: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, np.ndarray):
            stacked[key] = np.stack(values)
        elif isinstance(first, (int, float, np.generic)):
            stacked[key] = np.asarray(values)
        else:
            stacked[key] = values
    return stacked


def make_stack(dataset: Dataset, transform: Transform, seed: int, epoch: int, indices: list[int]) -> dict[str, Any]:
    """Load and augment one batch; each sample has its own generators from (seed, epoch, index)."""
    shrink = transform.shrink if isinstance(transform, ShrinkingTransform) else None
    made = []
    for index in indices:
        # Generators of its own for every question: a replaced image asks again, and the transform draws the same.
        ask = None if shrink is None else lambda size, at=index: shrink(size, SampleRng.for_sample(seed, epoch, at))
        sample = dataset.load(index) if ask is None else dataset.load(index, ask)  # type: ignore[call-arg]
        made.append(transform(sample, SampleRng.for_sample(seed, epoch, index)))
    return stack_samples(made)


class Source(NamedTuple):
    """What a worker process needs to make a batch."""

    dataset: Dataset
    transform: Transform
    seed: int


_source: Source | None = None


def _start_worker(source: Source) -> None:
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it saves a checkpoint first
    corrupt = getattr(source.dataset, "corrupt", None)
    if corrupt is not None:
        corrupt.defer = True
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_told, args=(parent.pid,), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _exit_with_parent(sentinel: int) -> None:
    # A pool's workers hold both ends of its queues and would wait for ever after the parent was killed with SIGKILL.
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _exit_when_told(parent: int | None) -> None:
    # Schedulers send SIGTERM to a whole process group: the parent handles it, and needs its workers until it has saved.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(1)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started inside leave SIGINT and SIGTERM to their parent from the start."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(epoch: int, indices: list[int]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    if _source is None:
        raise DataError("the data worker process was not set up.")
    stacked = make_stack(_source.dataset, _source.transform, _source.seed, epoch, indices)
    corrupt = getattr(_source.dataset, "corrupt", None)
    return stacked, corrupt.drain() if corrupt is not None else []


Reader = TypeVar("Reader", bound="BatchReader")


class BatchReader:
    """Batches of chosen images of a data set.

    transform: see `Transform`.  num_workers 0 reads in place; more start that many processes (forkserver), each
    preparing up to `prefetch` batches ahead.  Batches are the same for any number of workers.
    Raises DataError when a worker dies or fails, or too many files are corrupt (counted here, over all workers).
    Waiting for a slow worker is logged.  Use as a context manager, or call `close()`, to end the processes.
    """

    def __init__(self, dataset: Dataset, transform: Transform, *, num_workers: int = 0, seed: int = 0,
                 prefetch: int = 2) -> None:
        if num_workers < 0 or prefetch < 1:
            raise DataError(f"{type(self).__name__}: num_workers {num_workers}, prefetch {prefetch}; expected at least "
                            "0 and 1.")
        self.dataset, self.transform = dataset, transform
        self.num_workers, self.seed, self.prefetch = num_workers, seed, prefetch
        self._pool: ProcessPoolExecutor | None = None

    def in_order(self, numbers: Sequence[int], batch_size: int) -> Iterator[Any]:
        """Batches of these images in this order; the last one may be short."""
        starts = range(0, len(numbers), batch_size)
        wanted = ((0, number, [int(index) for index in numbers[start : start + batch_size]])
                  for number, start in enumerate(starts))
        for _, _, batch in self._batches(wanted):
            yield batch

    def __enter__(self: Reader) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; reading again starts new ones.  One that hangs in a read is killed."""
        workers, pool, self._pool = self._workers(), self._pool, None
        if pool is None:
            return
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                log.warning("data worker %d does not end (a slow or hung read?); killed.", worker.pid)
                worker.kill()

    def _finish(self, stacked: dict[str, Any]) -> Any:
        return self.transform.batch(stacked) if isinstance(self.transform, BatchTransform) else stacked

    def _batches(self, wanted: Iterator[tuple[int, int, list[int]]]) -> Iterator[tuple[int, int, Any]]:
        if self.num_workers == 0:
            for epoch, number, indices in wanted:
                stacked = make_stack(self.dataset, self.transform, self.seed, epoch, indices)
                yield epoch, number, self._finish(stacked)
            return
        pool = self._start_pool()
        waiting: deque[tuple[int, int, Future]] = deque()
        try:
            while True:
                while len(waiting) < self.num_workers * self.prefetch:
                    item = next(wanted, None)
                    if item is None:
                        break
                    epoch, number, indices = item
                    waiting.append((epoch, number, self._submit(pool, epoch, indices)))
                if not waiting:
                    return
                epoch, number, future = waiting.popleft()
                yield epoch, number, self._finish(self._receive(future))
        finally:
            for _, _, future in waiting:
                future.cancel()

    def _start_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not fork: Paddle's threads would not survive it.
            kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            context = multiprocessing.get_context(kind)
            let_waiting_threads_sleep()
            if kind == "forkserver":
                context.set_forkserver_preload([__name__])
                multiprocessing.resource_tracker.ensure_running()  # started later it would unblock the signals below
                with _signals_blocked(), one_thread():
                    multiprocessing.forkserver.ensure_running()
            self._pool = ProcessPoolExecutor(
                self.num_workers,
                mp_context=context,
                initializer=_start_worker,
                initargs=(Source(self.dataset, self.transform, self.seed),),
            )
        return self._pool

    def _submit(self, pool: ProcessPoolExecutor, epoch: int, indices: list[int]) -> Future:
        try:
            return pool.submit(_work, epoch, indices)
        except BrokenProcessPool as error:
            raise self._worker_died() from error

    def _receive(self, future: Future) -> dict[str, Any]:
        began, warn_after = time.monotonic(), WARN_AFTER_S
        while not wait_for([future], timeout=POLL_S).done:
            if not all(worker.is_alive() for worker in self._workers()):
                self._let_pool_notice()
            if time.monotonic() - began > warn_after:
                log.warning("the next batch has not come from the data workers for %.0f s: a slow or hung disk?",
                            warn_after)
                warn_after += WARN_AFTER_S
        try:
            stacked, failures = future.result()
        except BrokenProcessPool as error:
            raise self._worker_died() from error
        except BEiTError:
            raise
        except Exception as error:
            raise DataError(
                f"a data worker failed with {type(error).__name__}: {error}. "
                "Run with num_workers=0 to see where."
            ) from error
        for path, reason in failures:
            self.dataset.corrupt.add(path, reason)  # type: ignore[attr-defined]
        return stacked

    def _workers(self) -> list[Any]:
        return [] if self._pool is None else list((self._pool._processes or {}).values())

    def _let_pool_notice(self) -> None:
        # A pool notices a dead worker by itself, unless the worker died while it was sending a batch: then its thread
        # waits for the rest for ever, because other processes, and this one, could still write it. So none may.
        for worker in self._workers():
            worker.kill()
        if self._pool is not None:
            self._pool._result_queue._writer.close()  # type: ignore[attr-defined]

    def _worker_died(self) -> DataError:
        self._pool = None
        return DataError(
            f"one of {self.num_workers} data workers exited unexpectedly (killed, or out of memory?). "
            "Lower num_workers or prefetch, or use num_workers=0; a script that starts workers must be a file (not "
            "standard input) and needs `if __name__ == '__main__':`. The last checkpoint is intact."
        )
