# SPDX-License-Identifier: Apache-2.0
"""Lines of JSON between the first host and the others: who is there, what to start, what has ended.

Both sides are heard of every few seconds; a side that is not is gone.  Whoever reaches the port and speaks this
protocol can end the job: it belongs into a network of trusted machines, as Paddle's own ports do.
"""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
import time
from typing import Any

from ..errors import BEiTError
from ..files.json_text import parse_json

log = logging.getLogger("beitv2_core")
BEAT_SECONDS, SILENCE_SECONDS = 3.0, 15.0
LINE_BYTES = 65536
#: the word of a message that only says that its side is there
BEAT = {"say": "here"}
Message = dict[str, Any]


class Connection:
    """One side of a connection; messages and its end go into `inbox` as (connection, message), the end as None."""

    def __init__(self, sock: socket.socket, inbox: queue.Queue[tuple[Connection, Message | None]]):
        sock.settimeout(SILENCE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock, self._inbox = sock, inbox
        self._sending = threading.Lock()
        self._open = True
        for work in (self._read, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message; a side that is gone is noticed by the reading thread."""
        try:
            with self._sending:
                self._sock.sendall(json.dumps(message).encode("ascii") + b"\n")
        except OSError as error:
            log.debug("launch: %s", error)
            self.close()

    def close(self) -> None:
        """End the connection; the other side hears of it."""
        self._open = False
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("launch: %s", error)  # the other side was faster
        self._sock.close()

    def _beat(self) -> None:
        while self._open:
            self.send(BEAT)
            time.sleep(BEAT_SECONDS)

    def _read(self) -> None:
        try:
            with self._sock.makefile("rb") as lines:
                while True:
                    line = lines.readline(LINE_BYTES)
                    message = parse_json(line) if line.endswith(b"\n") else None
                    if not isinstance(message, dict):
                        break
                    if message != BEAT:
                        self._inbox.put((self, message))
        except (OSError, ValueError) as error:
            log.debug("launch: %s", error)
        self.close()
        self._inbox.put((self, None))


def listen(address: tuple[str, int], inbox: queue.Queue[tuple[Connection, Message | None]]) -> socket.socket:
    """Accept connections at an address of this machine until the socket that is returned is closed."""
    try:
        server = socket.create_server(address, backlog=64)
    except OSError as error:
        raise BEiTError(f"--master {address[0]}:{address[1]}: cannot listen there: {error}. Host 0 needs an address of "
                        "its own machine and a port that is free.") from None

    def accept() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:  # closed
                return
            Connection(sock, inbox)

    threading.Thread(target=accept, daemon=True).start()
    return server


def free_port(host: str) -> int:
    """A port of this machine that nobody uses now."""
    with socket.create_server((host, 0)) as found:
        return int(found.getsockname()[1])
