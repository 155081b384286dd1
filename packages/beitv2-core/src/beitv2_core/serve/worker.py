# SPDX-License-Identifier: Apache-2.0
"""A queue in front of the models: one thread computes, a few requests wait, further ones get an error answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable

from .problem import Problem


class Worker:
    """Runs functions in one thread, in the order of arrival; besides the running one, `waiting` functions may wait."""

    def __init__(self, waiting: int) -> None:
        self.places = 1 + waiting
        self._free = self.places
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "beitv2-serve")

    @property
    def taken(self) -> int:
        """Queue slots in use: requests that run, wait or send their body."""
        return self.places - self._free

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Acquire a queue slot before reading the body; Problem 503 if there is none.

        The slot is released at the end of the block, or when its function ends, if one was started: the function of a
        request that timed out still occupies the thread.
        """
        with self._lock:
            if not self._free:
                raise Problem(503, "the server", f"{self.places} requests are waiting or running.",
                              "Expected a free slot in the queue.", "Try again in a few seconds.")
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
        """Cancel the waiting functions; the running one is not interrupted."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Place:
    """A queue slot of a worker, valid for one call of `run`."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self.started = worker, False

    async def run(self, function: Callable[[], Any], *, timeout: float) -> Any:
        """The function's value; Problem 504 after `timeout` seconds, waiting included."""
        future = self._worker._thread.submit(function)
        self.started = True
        future.add_done_callback(self._worker._give_back)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except asyncio.TimeoutError:
            raise Problem(504, "the server", f"There is no result after {timeout:g} seconds.",
                          "Expected a result in this time.", "Try again later, send a smaller image, or start the "
                          "server with a larger --timeout.") from None
