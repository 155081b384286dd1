# SPDX-License-Identifier: Apache-2.0
"""`beitv2 launch` at work: one of these on every host; that of host 0 decides, the others do what it says."""

from __future__ import annotations

import logging
import queue
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from .connections import Connection, Message, free_port, listen
from .decisions import Finish, Job, Kill, Start, Stop, code_of_signal
from .disagreement import clocks_apart, differences, versions

log = logging.getLogger("beitv2_core")
LOOK_SECONDS = 0.2
#: a host asks for the first one again and again for this long; then it gives up
CONNECT_SECONDS, RETRY_SECONDS = 600.0, 2.0
#: for the other hosts to hear of the end
FAREWELL_SECONDS = 10.0


class Processes(Protocol):
    """The processes of this host: a `LocalJob` or, in tests, something like it."""

    def start(self, number: int, hosts: int, rank: int, master: str | None) -> None: ...

    def poll(self) -> tuple[str, int] | None: ...

    def total_batch(self) -> int | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Signals:
    """SIGINT and SIGTERM that this process has seen."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    @contextmanager
    def remembered(self) -> Iterator[Signals]:
        """Remember signals instead of ending by them."""
        before = {number: signal.signal(number, lambda number, frame: self.seen.append(number))
                  for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def hello(host: int, processes: int, command: Sequence[str]) -> Message:
    """What a host says of itself."""
    return {"say": "hello", "host": host, "processes": processes, "clock": time.time(),
            "facts": {**versions(), "command": " ".join(command)}}


class FirstHost:
    """Host 0: its own processes, the connections of the others, and the decisions.

    address: where the others connect; None: there are none.
    """

    def __init__(self, job: Job, local: Processes, own: Message, address: tuple[str, int] | None, signals: Signals):
        self._job, self._local, self._own, self._address, self._signals = job, local, own, address, signals
        self._inbox: queue.Queue[tuple[Connection, Message | None]] = queue.Queue()
        self._others: dict[int, Connection] = {}
        self._heeded = 0
        self._finishing = False

    def run(self) -> int:
        """The exit code of the job."""
        server: socket.socket | None = None if self._address is None else listen(self._address, self._inbox)
        self._job.joined(0, int(self._own["processes"]))
        try:
            while True:
                self._hear()
                ended = self._local.poll()
                if ended is not None:
                    self._job.ended(0, *ended)
                self._job.total_batch = self._job.total_batch or self._local.total_batch()
                self._heed_signals()
                todo = self._job.next()
                if isinstance(todo, Finish):
                    return self._finish(todo)
                if todo is not None:
                    self._do(todo)
        finally:
            if server is not None:
                server.close()

    def _hear(self) -> None:
        """Wait a moment for messages, and take all that are there."""
        try:
            connection, message = self._inbox.get(timeout=LOOK_SECONDS)
            while True:
                self._take(connection, message)
                connection, message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _take(self, connection: Connection, message: Message | None) -> None:
        host = next((number for number, known in self._others.items() if known is connection), None)
        if host is None:
            if message is not None:
                self._admit(connection, message)
        elif message is None:
            log.log(logging.DEBUG if self._finishing else logging.WARNING, "launch: host %d is gone", host)
            del self._others[host]
            self._job.gone(host)
        elif message.get("say") == "ended" and message.get("round") == self._job.rounds:
            self._job.ended(host, str(message.get("how")), int(message.get("code", 1)))
        elif message.get("say") == "leaving":
            log.warning("launch: host %d was told to end", host)
            self._job.leaves(host)

    def _admit(self, connection: Connection, message: Message) -> None:
        """A new connection has spoken: a host of this job, or a reason why not."""
        host, processes, facts = message.get("host"), message.get("processes"), message.get("facts")
        clock = message.get("clock")
        if message.get("say") != "hello" or not isinstance(facts, dict) or not isinstance(processes, int) \
                or not isinstance(host, int) or not isinstance(clock, float) or not 0 < host < self._job.most_hosts \
                or processes < 1:
            connection.close()
            return
        if host in self._others:  # its old connection is not known to be gone: it asks again
            connection.send({"say": "later"})
            return
        who = f"host {host}"
        problem = differences({"host 0": self._own["facts"], who: facts})
        problem += clocks_apart({"host 0": time.time(), who: clock})
        if problem:
            why = "the hosts disagree: " + "; ".join(problem)
            connection.send({"say": "end", "code": 2, "why": why})
            if self._job.rounds == 0:
                self._job.finish(2, why)
            else:
                log.error("launch: host %d is turned away: %s", host, why)
            return
        log.info("launch: host %d is there with %d process(es)", host, processes)
        self._others[host] = connection
        self._job.joined(host, processes)

    def _heed_signals(self) -> None:
        for number in self._signals.seen[self._heeded:]:
            self._heeded += 1
            if self._heeded > 1:
                self._job.hurry()
            self._job.finish(code_of_signal(number), f"signal {number}: the job saves and ends")

    def _do(self, todo: Start | Stop | Kill) -> None:
        if isinstance(todo, Start):
            master = None
            if len(todo.hosts) > 1 and self._address is not None:
                master = f"{self._address[0]}:{free_port(self._address[0])}"
            log.info("launch: start %d on host(s) %s: %s", self._job.rounds, ", ".join(map(str, todo.hosts)), todo.why)
            for rank, host in enumerate(todo.hosts):
                if host == 0:
                    self._local.start(self._job.rounds, len(todo.hosts), rank, master)
                else:
                    self._others[host].send({"say": "start", "round": self._job.rounds, "hosts": len(todo.hosts),
                                             "rank": rank, "master": master})
        elif isinstance(todo, Stop):
            log.info("launch: the processes save and end: %s", todo.why)
            self._local.terminate()  # those of the other hosts hear of it by them
        else:
            for host in todo.hosts:
                if host == 0:
                    self._local.kill()
                    self._job.ended(0, "lost", 1)
                elif host in self._others:
                    self._others[host].send({"say": "kill", "round": self._job.rounds})

    def _finish(self, todo: Finish) -> int:
        log.log(_level(todo.code), "launch: %s", todo.why)
        self._finishing = True
        for connection in self._others.values():
            connection.send({"say": "end", "code": todo.code, "why": todo.why})
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self._others and time.monotonic() < deadline:  # a connection that ends too early takes the words along
            self._hear()
        return todo.code


class OtherHost:
    """Any other host: starts and ends its processes as host 0 says.

    connect: a new socket to host 0, or OSError.
    """

    def __init__(self, local: Processes, own: Callable[[], Message], connect: Callable[[], socket.socket],
                 signals: Signals, clock: Callable[[], float] = time.monotonic):
        self._local, self._own, self._connect, self._signals, self._clock = local, own, connect, signals, clock
        self._inbox: queue.Queue[tuple[Connection, Message | None]] = queue.Queue()
        self._round = self._heeded = 0
        self._running = False

    def run(self) -> int:
        """The exit code of the job; 1 where host 0 is not found."""
        alone_since = self._clock()
        while not self._signals.seen:
            try:
                connection = Connection(self._connect(), self._inbox)
            except OSError as error:
                if self._clock() - alone_since > CONNECT_SECONDS:
                    log.error("launch: host 0 is not there (%s); it decides, so nothing goes on without it", error)
                    return 1
                time.sleep(RETRY_SECONDS)
                continue
            connection.send(self._own())
            code = self._serve(connection)
            connection.close()
            if code is not None:
                return code
            if self._running:
                log.warning("launch: the connection to host 0 has ended; the processes here are ended too")
                self._local.kill()
                self._running = False
            alone_since = self._clock()
            time.sleep(RETRY_SECONDS)
        return code_of_signal(self._signals.seen[-1])

    def _serve(self, connection: Connection) -> int | None:
        """Do what host 0 says; the exit code, or None when the connection has ended."""
        while True:
            ended = self._local.poll()
            if ended is not None:
                self._running = False
                connection.send({"say": "ended", "round": self._round, "how": ended[0], "code": ended[1]})
                if self._signals.seen:
                    return code_of_signal(self._signals.seen[-1])
            if self._heed_signals(connection):
                return code_of_signal(self._signals.seen[-1])
            try:
                source, message = self._inbox.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if source is not connection:
                continue
            if message is None or message.get("say") == "later":
                return None
            code = self._obey(connection, message)
            if code is not None:
                return code

    def _heed_signals(self, connection: Connection) -> bool:
        """Tell host 0 of a signal; True where this host can end at once: nothing runs, or it is in a hurry."""
        seen = len(self._signals.seen)
        if seen > self._heeded:
            connection.send({"say": "leaving"})
            self._local.terminate()
            self._heeded = seen
        return seen > 1 or (seen == 1 and not self._running)

    def _obey(self, connection: Connection, message: Message) -> int | None:
        what: Any = message.get("say")
        if what == "start":
            self._round, self._running = int(message["round"]), True
            log.info("launch: start %d as host %d of %d", self._round, message["rank"] + 1, message["hosts"])
            self._local.start(self._round, int(message["hosts"]), int(message["rank"]), message["master"])
        elif what == "kill":
            self._local.kill()
            self._running = False
            connection.send({"say": "ended", "round": self._round, "how": "lost", "code": 1})
        elif what == "end":
            code = int(message["code"])
            log.log(_level(code), "launch: host 0 ends the job: %s", message["why"])
            self._local.kill()
            return code
        return None


def _level(code: int) -> int:
    """An end that was asked for is no error."""
    return logging.INFO if code == 0 or code > 128 else logging.ERROR
