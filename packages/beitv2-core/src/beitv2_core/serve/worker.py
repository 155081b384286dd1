# SPDX-License-Identifier: Apache-2.0
"""One image at a time: a single thread computes, a few requests may wait, the others are told to come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable

from .problem import Problem


class Worker:
    """Runs functions in one thread of its own, in the order they came; `waiting` more than the running one may wait."""

    def __init__(self, waiting: int) -> None:
        self.places = 1 + waiting
        self._free = self.places
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "beitv2-serve")

    @property
    def taken(self) -> int:
        """Requests that run, wait or are being received."""
        return self.places - self._free

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place in the queue, to be had before anything is received; Problem 503 when there is none.

        It is given back when the block is left and its function, if one was started, has ended: a request that gave up
        still occupies the thread.
        """
        with self._lock:
            if not self._free:
                raise Problem(503, "the server", f"{self.places} requests are waiting or running.",
                              "Expected a free place.", "Try again in a few seconds.")
            self._free -= 1
        place = Place(self)
        try:
            yield place
        finally:
            if not place.started:
                self._give_back()

    def _give_back(self, _: Any = None) -> None:
        with self._lock:
            self._free += 1

    def close(self) -> None:
        """Forget what waits; what runs ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Place:
    """A place in a worker's queue, good for one call of `run`."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self.started = worker, False

    async def run(self, function: Callable[[], Any], *, timeout: float) -> Any:
        """The function's value; Problem 504 after `timeout` seconds of waiting and running together."""
        future = self._worker._thread.submit(function)
        self.started = True
        future.add_done_callback(self._worker._give_back)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except asyncio.TimeoutError:
            raise Problem(504, "the server", f"No result within {timeout:g} seconds.", "Expected one in this time.",
                          "Try again later, or a smaller image; whoever runs the server can raise --timeout."
                          ) from None
