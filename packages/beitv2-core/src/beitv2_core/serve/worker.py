# SPDX-License-Identifier: Apache-2.0
"""A queue in front of the models: one thread computes, a few requests wait, further ones get an error answer.

A request takes its place before its body is received, so that no more bodies are in memory than there are places.  One
that sends slowly loses it to the next as soon as no other is free.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable

from .problem import Problem

#: seconds in which a request may send its body before others can take its place
PATIENCE = 2.0


class Worker:
    """Runs functions in one thread, in the order of arrival; besides the running one, `waiting` functions may wait."""

    def __init__(self, waiting: int) -> None:
        self.places = 1 + waiting
        self._free = self.places
        self.accepted = 0  # requests that got a queue slot, ever
        self._sending: list[Place] = []  # the longest first
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "beitv2-serve")

    @property
    def taken(self) -> int:
        """Queue slots in use: requests that run, wait or send their body."""
        return self.places - self._free

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Acquire a queue slot before reading the body; Problem 503 if there is none.

        Where there is none, the request that has been sending its body the longest, beyond `PATIENCE`, gives up its
        own.  The slot is released at the end of the block, or when its function ends, if one was started: the function
        of a request that timed out still occupies the thread.
        """
        slow = next((one for one in self._sending if one.is_slow()), None)
        if slow is not None and not self._free:
            slow.give_up()
        with self._lock:
            if not self._free:
                raise Problem(503, "the server", f"{self.places} requests are waiting or running.",
                              "Expected a free slot in the queue.", "Try again in a few seconds.")
            self._free -= 1
            self.accepted += 1
        place = Place(self)
        try:
            yield place
        finally:
            if not place.started and not place.given_up:
                self._give_back()

    def _give_back(self, _: Any = None) -> None:
        with self._lock:
            self._free += 1

    def close(self) -> None:
        """Cancel the waiting functions; the running one is not interrupted."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Place:
    """A queue slot of a worker, valid for one call of `receive` and one of `run`."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self.started, self.given_up, self.since = worker, False, False, 0.0
        self._receiving: asyncio.Future[bytes] | None = None

    async def receive(self, body: Coroutine[Any, Any, bytes], *, timeout: float) -> bytes:
        """The body of a request; Problem 408 after `timeout` seconds, or where others wait for this place."""
        self._receiving, self.since = asyncio.ensure_future(body), time.monotonic()
        self._worker._sending.append(self)
        slow = f"It was not received within {timeout:g} seconds."
        try:
            return await asyncio.wait_for(self._receiving, timeout)
        except asyncio.TimeoutError:
            pass
        except asyncio.CancelledError:
            if not self.given_up:
                raise
            slow = f"It was not received within {PATIENCE:g} seconds, and others wait."
        finally:
            self._worker._sending.remove(self)
        raise Problem(408, "the request body", slow, "Expected the complete image in this time.",
                      "Send a smaller image, or try again later.")

    def is_slow(self) -> bool:
        """Whether its body has been coming for longer than `PATIENCE`, and is not whole yet."""
        waits = self._receiving is not None and not self._receiving.done() and not self.given_up
        return waits and time.monotonic() - self.since > PATIENCE

    def give_up(self) -> None:
        """Leave the slot to another request; the body that is being received is not wanted any more."""
        self.given_up = True
        if self._receiving is not None:
            self._receiving.cancel()
        self._worker._give_back()

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
