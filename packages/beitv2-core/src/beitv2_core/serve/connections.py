# SPDX-License-Identifier: Apache-2.0
"""Connections that do not ask in time, or never end their answer, are closed: they must not take those of others."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

#: seconds in which the head of a request has to arrive, from the connection or the answer before it on
HEAD_SECONDS = 10.0
#: times of the two that a request has (its body, its result), and for taking the answer
REQUEST_TIMES = 3


def patient_protocol(*, most_idle: int, timeout: float, head_seconds: float = HEAD_SECONDS) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 connection with a time for everything.

    most_idle: connections from which on the one that has been without a request the longest makes room for a new one;
    timeout: seconds for receiving a body, and again for its result, as `Limits`; head_seconds: for the lines before it,
    however slowly they come.  uvicorn itself waits without end for a request, and answers everybody with 503 while as
    many connections as it allows are open.
    """

    class PatientProtocol(H11Protocol):
        _asked: Any = None
        _timer: Any = None
        since = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait(head_seconds)
            # Those that are let go stay in the set until the loop comes to them: after many at once, for a while.
            there = [one for one in self.connections if not one.transport.is_closing()]
            idle = [one for one in there if isinstance(one, PatientProtocol) and not one.asks()]
            if len(there) > most_idle and idle:
                min(idle, key=lambda one: one.since).transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._note_request()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.asks():  # a next request may have come already
                self._wait(head_seconds)
            self._note_request()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._timer is not None:
                self._timer.cancel()

        def asks(self) -> bool:
            """Whether a request is being answered."""
            return self.cycle is not None and not self.cycle.response_complete

        def _note_request(self) -> None:
            if self.asks() and self.cycle is not self._asked:
                self._asked = self.cycle
                self._wait(REQUEST_TIMES * timeout + head_seconds)

        def _wait(self, seconds: float) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self.since = self.loop.time()
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    return PatientProtocol
