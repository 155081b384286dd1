# SPDX-License-Identifier: Apache-2.0
"""`beitv2 serve` among hostile requests: honest ones are answered, and everything they took comes back."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import pytest

for _package in ("fastapi", "fastapi_offline", "uvicorn"):
    pytest.importorskip(_package, reason="the extra 'serve' is not installed")
if not Path("/proc/self/status").exists():
    pytest.skip("memory, threads and files of a process are read from /proc", allow_module_level=True)

from hostile_requests import HONEST_SECONDS, HOST, KIND, POST, Honest, attacked, server  # noqa: E402


def test_honest_requests_are_answered_while_hostile_ones_come_and_all_comes_back(record_property):
    row = attacked(60, seconds=2.0)
    record_property("summary", json.dumps(row))
    assert row["alive"] and not row["harmed"], row


@pytest.mark.parametrize("start, count", [(b"", 140), (POST + HOST, 140),
                                          (POST + HOST + KIND + b"Content-Length: 99999\r\n\r\nx", 12)])
def test_connections_that_never_finish_do_not_keep_others_out(start, count):
    with server() as (_, port):
        opened = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(count)]
        try:
            for connection in opened:
                connection.sendall(start)
            began = time.monotonic()
            honest = Honest(port)
            assert honest.ask("POST", "/api/views/classes", honest.image, began + 2 * HONEST_SECONDS) == "200"
            assert time.monotonic() - began < HONEST_SECONDS
        finally:
            for connection in opened:
                connection.close()


def test_connections_that_come_all_at_once_do_not_keep_others_out():
    with server() as (process, port):
        opened = []
        try:
            for _ in range(2):  # the server accepts what came meanwhile in one go
                process.send_signal(signal.SIGSTOP)
                opened += [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(110)]
                process.send_signal(signal.SIGCONT)
                time.sleep(0.5)
            began = time.monotonic()
            honest = Honest(port)
            assert honest.ask("GET", "/health", None, began + 2 * HONEST_SECONDS) == "200"
            assert time.monotonic() - began < HONEST_SECONDS
        finally:
            for connection in opened:
                connection.close()
