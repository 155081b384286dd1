# SPDX-License-Identifier: Apache-2.0
"""A plain TCP connection of every process to the first one: a lost process is noticed, and waiting has no time limit.

The collectives do neither: gloo gives up after 30 seconds of waiting and ends in the middle of a backward pass with a
C++ trace, NCCL waits on.  A process that closes its connection without a goodbye is gone: the others log it and end.  A
host that lost power is noticed after half a minute by the keep-alive of its connections.  A process that is stopped
(SIGSTOP) keeps its connections: the others of its host see its state.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from beitv2_core.errors import BEiTError
from beitv2_core.launching.processes import StoppedWatch, siblings

log = logging.getLogger("beitv2_core")
CONNECT_SECONDS = 120.0
#: limits of the first line of a connection, which identifies the process
INTRODUCTION_SECONDS, INTRODUCTION_BYTES = 10.0, 64
#: how often the other processes of this host are looked at, and after how many looks a stopped one is gone: sooner than
#: gloo gives up
LOOK_SECONDS, STOPPED_LOOKS = 2.0, 10
#: exit code of a process that ends because another one is gone
EXIT_CODE = 1
CAUSES = "killed, out of memory, or failed (see its log, workerlog.N)"
ARRIVED, GO, GOODBYE, GONE = "arrived", "go", "goodbye", "gone"


class PeerMonitor:
    """Connections of one process: the first one's to all others, any other's to the first.

    host: address of the first process; share: gives the first process's two numbers to all.  Threads read; nothing is
    computed while all is well.  At the end of the interpreter the goodbye is sent, unless `abandon` was called.
    Raises BEiTError where the processes do not reach each other.
    """

    def __init__(self, rank: int, world_size: int, host: str, share: Callable[[list[int]], list[int]]):
        self.rank, self.world_size = rank, world_size
        self._peers: dict[int, Any] = {}
        self._changed = threading.Condition()
        self._rounds = self._arrivals = 0
        self._leaving = False
        #: called when this process ends because another one is gone
        self.before_end: Callable[[], None] = lambda: None
        self._left: set[int] = set()
        if rank == 0:
            self._accept(host, share)
        else:
            port, token = share([0, 0])
            try:
                connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
            except OSError as error:
                raise BEiTError(f"process {rank} of {world_size}: cannot reach process 0 at {host}, port {port}: "
                                f"{error}. Look into its log (workerlog.0); between hosts, a firewall must let all "
                                "ports through.") from None
            self._keep(0, connection, connection.makefile("r", encoding="ascii"))
            self._send(0, f"{token} {rank}")
        for number, (_, reader) in self._peers.items():
            threading.Thread(target=self._listen, args=(number, reader), daemon=True).start()
        threading.Thread(target=self._watch_siblings, daemon=True).start()
        atexit.register(self.close)

    def barrier(self) -> None:
        """Wait without time limit until every process has arrived; ends this process when another one has ended."""
        with self._changed:
            self._rounds += 1
            if self.rank != 0:
                self._send(0, ARRIVED)
            wanted = self._rounds * len(self._peers)
            self._changed.wait_for(lambda: self._arrivals >= wanted or self._left)
            left = sorted(self._left) if self._arrivals < wanted else []
        if left:
            self._end(left[0], "has ended")
        if self.rank == 0:
            for number in self._peers:
                self._send(number, GO)

    def abandon(self) -> None:
        """This process fails: the others end too, and this one ends by its own error."""
        self._leaving = True
        for connection, _ in self._peers.values():
            _shut(connection)

    def close(self) -> None:
        """Send the goodbye, so that the others may finish."""
        if self._leaving:
            return
        self._leaving = True
        for number, (connection, _) in self._peers.items():
            self._send(number, GOODBYE)
            _shut(connection)

    def _accept(self, host: str, share: Callable[[list[int]], list[int]]) -> None:
        """Accept the connections of the other processes; those of other programs are closed and cause no delay."""
        token = secrets.randbits(62)
        pending: dict[socket.socket, tuple[bytearray, float]] = {}  # first line so far, and until when to wait
        with socket.create_server((host, 0), backlog=max(128, self.world_size)) as server, \
                selectors.DefaultSelector() as ready:
            port = server.getsockname()[1]
            share([port, token])
            server.setblocking(False)
            ready.register(server, selectors.EVENT_READ)
            deadline = time.monotonic() + CONNECT_SECONDS
            while len(self._peers) < self.world_size - 1 and time.monotonic() < deadline:
                for key, _ in ready.select(timeout=0.2):
                    if key.fileobj is server:
                        connection = _accepted(server)
                        if connection is not None:
                            pending[connection] = bytearray(), time.monotonic() + INTRODUCTION_SECONDS
                            ready.register(connection, selectors.EVENT_READ)
                for connection, (line, until) in list(pending.items()):
                    done = _read_line(connection, line)
                    number = self._number_of(bytes(line), token) if done else None
                    if done or time.monotonic() > until:
                        ready.unregister(connection)
                        del pending[connection]
                        if number is None:  # another program on this network
                            connection.close()
                        else:
                            connection.setblocking(True)
                            self._keep(number, connection, connection.makefile("r", encoding="ascii"))
        for connection in pending:
            connection.close()
        missing = sorted(set(range(1, self.world_size)) - set(self._peers))
        if missing:
            raise BEiTError(f"process 0 of {self.world_size}: no connection from process(es) "
                            f"{', '.join(map(str, missing))} at {host}, port {port}, within {CONNECT_SECONDS:g} s. "
                            "Look into their logs (workerlog.N); between hosts, a firewall must let all ports through.")

    def _number_of(self, line: bytes, token: int) -> int | None:
        """The number of the process that sent the token and its number; None for any other line."""
        words = line.split()
        if len(words) != 2 or words[0] != str(token).encode() or not words[1].isdigit():
            return None
        number = int(words[1])
        return number if 0 < number < self.world_size and number not in self._peers else None

    def _keep(self, number: int, connection: socket.socket, reader: Any) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._peers[number] = connection, reader

    def _send(self, number: int, word: str) -> None:
        try:
            self._peers[number][0].sendall(f"{word}\n".encode("ascii"))
        except OSError as error:  # gone: the thread that reads from it reports it
            log.debug("connection to process %d: %s", number, error)

    def _listen(self, number: int, reader: Any) -> None:
        while True:
            try:
                words = reader.readline().split()
            except (OSError, ValueError):
                words = []
            if not words:
                return self._end(number, "is gone")
            if words[0] == GONE:
                return self._end(int(words[1]), "is gone")
            with self._changed:
                if words[0] == GOODBYE:
                    self._left.add(number)
                else:
                    self._arrivals += 1
                self._changed.notify_all()
            if words[0] == GOODBYE:
                return None

    def _watch_siblings(self) -> None:
        """End this process when another one of its launcher has been stopped by a signal for too long."""
        known = {pid: rank for rank, pid in siblings().items() if rank < self.world_size}
        watch = StoppedWatch(STOPPED_LOOKS)
        while known and not self._leaving:
            for pid in watch.look(known):
                return self._end(known[pid], "does not go on",
                                 f"stopped by a signal for {LOOK_SECONDS * STOPPED_LOOKS:g} s (SIGSTOP)")
            time.sleep(LOOK_SECONDS)
        return None

    def _end(self, gone: int, how: str, why: str = CAUSES) -> None:
        """End this process because process `gone` will not answer any more."""
        if self._leaving:
            return
        self._leaving = True
        log.error("process %d of %d %s: %s. Process %d ends too. The last checkpoint is intact: continue with --resume "
                  "auto, with any number of processes at the same total batch (`beitv2 launch --restarts N` does so by "
                  "itself).", gone, self.world_size, how, why,
                  self.rank)
        for number in self._peers:  # not this process is the one to look at
            self._send(number, f"{GONE} {gone}")
        self.before_end()
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(EXIT_CODE)  # not an exception: the main thread is inside a collective that does not return


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("peer monitor: %s", error)  # the other side was faster


def _accepted(server: socket.socket) -> socket.socket | None:
    """The next connection; None where it was closed meanwhile."""
    try:
        connection, _ = server.accept()
    except OSError as error:
        log.debug("peer monitor: %s", error)
        return None
    connection.setblocking(False)
    return connection


def _read_line(connection: socket.socket, line: bytearray) -> bool:
    """Add received bytes to `line`, one by one, so that what follows stays unread; True at its end."""
    while not line.endswith(b"\n") and len(line) < INTRODUCTION_BYTES:
        try:
            byte = connection.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            byte = b""
        if not byte:  # it left in the middle of the line
            line.clear()
            return True
        line += byte
    return True
