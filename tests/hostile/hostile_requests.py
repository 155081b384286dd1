# SPDX-License-Identifier: Apache-2.0
"""Hostile requests to `beitv2 serve`, by sockets, while an honest client asks and the server's memory is watched.

    python tests/hostile/hostile_requests.py [--requests 500] [FOLDER]

prints one row of JSON and leaves it in FOLDER as row.json; exit code 1 where something was not withstood.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from image_files import many_directories, many_gif_frames, many_scans, png
from mutations import INTEGERS, MAGIC, TRICKS
from PIL import Image

POST = b"POST /api/views/classes HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
KIND = b"Content-Type: image/png\r\n"
AT_ONCE = 24
HONEST_SECONDS = 5.0  # in which an honest request has its answer, told "try again" or not
BACK_WITHIN_MB = 100  # above its memory before, when the requests have ended


class Attack(NamedTuple):
    """One connection: its port, draws, and how long it is kept open at most."""

    port: int
    rng: random.Random
    seconds: float

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=self.seconds)

    def send(self, *parts: bytes) -> bytes:
        """What comes for a request that is sent at once."""
        with self.open() as connection:
            with contextlib.suppress(OSError):  # refused before its end
                connection.sendall(b"".join(parts))
            return _answer(connection)

    def dribble(self, start: bytes, part: Callable[[], bytes], pause: float) -> bytes:
        """What comes for a request that goes on and on."""
        end = time.monotonic() + self.seconds
        with self.open() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(start)
                while time.monotonic() < end:
                    connection.sendall(part())
                    time.sleep(pause)
            connection.settimeout(0.2)
            return _answer(connection)

    def image(self, body: bytes) -> bytes:
        return self.send(POST, HOST, KIND, b"Content-Length: %d\r\n\r\n" % len(body), body)


def _answer(connection: socket.socket) -> bytes:
    """The answer up to its end, or what came of it in time."""
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < 300_000:
            part = connection.recv(65536)
            if not part:
                break
            found += part
            head, blank, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            if blank and length and len(body) >= int(length[1]):
                break
    return found


def _hold(attack: Attack, count: int, start: bytes = b"") -> bytes:
    """Many connections that say nothing, or not enough."""
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            with contextlib.suppress(OSError):
                opened.enter_context(attack.open()).sendall(start)
        time.sleep(attack.seconds)
    return b""


def _broken_off(attack: Attack) -> bytes:
    """Half a body, then the end, or a reset."""
    with attack.open() as connection:
        connection.sendall(POST + HOST + KIND + b"Content-Length: 5000\r\n\r\n" + bytes(attack.rng.randrange(4000)))
        if attack.rng.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        connection.shutdown(socket.SHUT_WR)
        return _answer(connection)


def _never_reads(attack: Attack) -> bytes:
    with attack.open() as connection:
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            connection.sendall((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 500)
        time.sleep(attack.seconds)
    return b""


def _lengths(attack: Attack) -> bytes:
    length = attack.rng.choice([str(number).encode() for number in INTEGERS] +
                               [b"-1", b"abc", b"9" * 400, b"1_0", b"0x10", b"\xb2", b"", b"5\r\nContent-Length: 6"])
    return attack.send(POST, HOST, KIND, b"Content-Length: ", length, b"\r\n\r\n", bytes(100))


def _hosts(attack: Attack) -> bytes:
    host = attack.rng.choice([b"Host: evil.example\r\n", b"Host: \r\n", b"", b"Host: 127.0.0.1.evil.example\r\n",
                              b"Host: localhost@evil.example\r\n", b"Host: evil.example:8000\r\n", HOST * 2,
                              b"Host: [::1].evil.example\r\n", b"Host: localhost\tevil.example\r\n",
                              b"Host: evil.example\r\nX-Forwarded-Host: localhost\r\n", b"Host: \xff\r\n",
                              b"Host: localhost:80:80\r\n", b"Host: " + b"a" * 5000 + b"\r\n"])
    return attack.send(b"GET /api/info HTTP/1.1\r\n", host, b"\r\n")


def _paths(attack: Attack) -> bytes:
    name = attack.rng.choice([trick.encode("utf-8", "surrogatepass") for trick in TRICKS] + [
        b"../../../../../../etc/passwd", b"..%2f..%2f..%2f..%2fetc%2fpasswd", b"%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        b"%00", b"%ff%fe", b"....//....//etc/passwd", b"..\\..\\etc\\passwd", b"?" + b"x=1&" * 10_000])
    start = attack.rng.choice([b"/", b"/docs-files/", b"/api/views/", b"//", b"http://evil.example/", b""])
    return attack.send(b"GET ", start, name, b" HTTP/1.1\r\n", HOST, b"\r\n")


def _methods(attack: Attack) -> bytes:
    line = attack.rng.choice([b"DELETE / HTTP/1.1", b"TRACE / HTTP/1.1", b"CONNECT localhost:22 HTTP/1.1",
                              b"PUT / HTTP/1.1",
                              b"PRI * HTTP/2.0", b"OPTIONS * HTTP/1.1", b"get / http/1.1", b"GET / HTTP/9.9", b"GET /",
                              b"X" * 5000 + b" / HTTP/1.1", b"GET / HTTP/1.1 HTTP/1.1",
                              b"\x16\x03\x01\2\0\1\0\1\xfc\3\3",
                              b"POST /health HTTP/1.1", b"GET /api/views/classes HTTP/1.1", b"\0", b"HEAD / HTTP/1.1"])
    extra = attack.rng.choice([b"", b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n"
                               b"Sec-WebSocket-Version: 13\r\n", b"Expect: 100-continue\r\nContent-Length: 10\r\n"])
    return attack.send(line, b"\r\n", HOST, extra, b"\r\n")


def _chunks(attack: Attack) -> bytes:
    start = POST + HOST + KIND + b"Transfer-Encoding: chunked\r\n"
    way = attack.rng.randrange(4)
    if way == 0:
        part = b"ffff\r\n" + bytes(65535) + b"\r\n"
        return attack.dribble(start + b"\r\n", lambda: part, 0.0)
    if way == 1:
        return attack.dribble(start + b"\r\n", lambda: b"1\r\nx\r\n", 0.1)
    if way == 2:
        return attack.send(start, b"Content-Length: 5\r\n\r\n", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    return attack.send(start, b"\r\n", attack.rng.choice([b"zz\r\n", b"f" * 100 + b"\r\n", b"-1\r\n",
                                                          b"5;" + b"x" * 99_999]))


def _floods(attack: Attack) -> bytes:
    flood = attack.rng.choice([b"X: y\r\n" * 20_000, b"X: " + b"y" * 500_000 + b"\r\n", b"X" * 200_000 + b": y\r\n",
                               b" folded\r\n" * 1000, b"X: \0\r\n", b"Cookie: " + b"a=b; " * 20_000 + b"\r\n"])
    return attack.send(b"GET /health HTTP/1.1\r\n", HOST, flood, b"\r\n")


def _types(attack: Attack) -> bytes:
    kind = attack.rng.choice([b"text/html", b"multipart/form-data; boundary=x", b"application/json", b"", b"image",
                              b"application/x-www-form-urlencoded", b"image/svg+xml", b"image/" + b"x" * 9000])
    body = attack.rng.choice([b"<svg onload=alert(1)>", b"--x\r\n\r\n\r\n--x--", b"{}", *MAGIC])
    return attack.send(POST, HOST, b"Content-Type: ", kind, b"\r\nContent-Length: %d\r\n\r\n" % len(body), body)


def _images(attack: Attack) -> bytes:
    kind = attack.rng.randrange(7)
    if kind == 0:
        return attack.image(png(attack.rng.choice((2**31 - 1, 60_000)), 2**31 - 1, b"x"))
    if kind == 1:
        out = io.BytesIO()
        Image.new("L", (6000, 5000)).save(out, "PNG")  # allowed
        return attack.image(out.getvalue())
    if kind == 2:
        return attack.image(many_scans(1900, 20_000))
    if kind == 3:
        return attack.image(many_gif_frames(100_000))
    if kind == 4:
        return attack.image(many_directories(10_000))
    if kind == 5:
        return attack.image(png(1, 60_000, b""))
    return attack.image(attack.rng.choice(MAGIC) + attack.rng.randbytes(5000))


ATTACKS: dict[str, Callable[[Attack], bytes]] = {
    "idle connections": lambda attack: _hold(attack, 20),
    "half heads, many": lambda attack: _hold(attack, 20, POST + HOST),
    "slow head": lambda attack: attack.dribble(POST, lambda: b"X: y\r\n", 0.1),
    "slow body": lambda attack: attack.dribble(POST + HOST + KIND + b"Content-Length: 99999\r\n\r\n", lambda: b"x",
                                               0.1),
    "body after the answer": lambda attack: attack.dribble(
        POST + HOST + KIND + b"Content-Length: 99999999999\r\n\r\n", lambda: bytes(1000), 0.05),
    "half body": _broken_off, "answers that nobody reads": _never_reads, "lengths": _lengths, "hosts": _hosts,
    "paths": _paths, "methods": _methods, "chunks": _chunks, "headers": _floods, "types": _types, "images": _images,
    "pipelined": lambda attack: attack.send((b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n") * 300),
    "expected, never sent": lambda attack: attack.send(POST, HOST, KIND, b"Expect: 100-continue\r\n",
                                                       b"Content-Length: 100\r\n\r\n"),
}


class Honest(threading.Thread):
    """A client that asks for the state and for an image's result, again where it is told to, and notes the seconds."""

    def __init__(self, port: int):
        super().__init__(daemon=True)
        out = io.BytesIO()
        Image.new("RGB", (320, 240), "red").save(out, "PNG")
        self.port, self.image, self.seconds, self.failed, self.ends = port, out.getvalue(), [], [], threading.Event()

    def run(self) -> None:
        while not self.ends.is_set():
            for method, path, body in (("GET", "/health", None), ("POST", "/api/views/classes", self.image)):
                began = time.monotonic()
                said = self.ask(method, path, body, until=began + 2 * HONEST_SECONDS)
                self.seconds.append(time.monotonic() - began)
                if said != "200":
                    self.failed.append(f"{method} {path}: {said}")
            self.ends.wait(0.1)

    def ask(self, method: str, path: str, body: bytes | None, until: float) -> str:
        said = "nothing"
        while time.monotonic() < until:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HONEST_SECONDS)
            try:
                connection.request(method, path, body, {"Content-Type": "image/png"} if body else {})
                said = str(connection.getresponse().status)
            except OSError as error:
                said = repr(error)
            finally:
                connection.close()
            if said == "200":
                return said
            time.sleep(0.3)
        return said


@contextlib.contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own."""
    with subprocess.Popen([sys.executable, str(Path(__file__).with_name("served_views.py"))], stdout=subprocess.PIPE,
                          text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def state_of(pid: int) -> dict[str, int]:
    """Memory in MB (now, and the most since the start), threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()

    def number(key: str) -> int:
        return int(status.split(f"{key}:")[1].split()[0])

    return {"MB": number("VmRSS") // 1024, "most MB": number("VmHWM") // 1024, "threads": number("Threads"),
            "files": len(os.listdir(f"/proc/{pid}/fd"))}


def attacked(requests: int, seed: int = 0, seconds: float = 4.0) -> dict[str, Any]:
    """Send hostile requests to a server and report; seconds: how long one of them lasts at most."""
    with server() as (process, port):
        warm = Honest(port)
        for _ in range(20):
            warm.ask("POST", "/api/views/classes", warm.image, time.monotonic() + 20)
        before = state_of(process.pid)
        honest = Honest(port)
        honest.start()
        names = [list(ATTACKS)[number % len(ATTACKS)] for number in range(requests)]
        random.Random(seed).shuffle(names)

        def attack(number: int) -> tuple[str, bytes]:
            try:
                return names[number], ATTACKS[names[number]](Attack(port, random.Random(f"{seed} {number}"), seconds))
            except OSError as error:
                return names[number], repr(error).encode()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(attack, range(requests)))
        honest.ends.set()
        honest.join(30)
        after = state_of(process.pid)
        for _ in range(60):  # connections are let go, memory with them
            after = state_of(process.pid)
            if after["files"] <= before["files"] and after["MB"] < before["MB"] + BACK_WITHIN_MB:
                break
            time.sleep(0.25)
        alive = process.poll() is None
    statuses = Counter(found[1].decode() if (found := re.match(rb"HTTP/1.1 (\d+)", answer)) else "none"
                       for _, answer in answers)
    forged = [answer for name, answer in answers if name == "hosts" and answer.startswith(b"HTTP/1.1 200")]
    row = {"part": "hostile requests", "alive": alive, "statuses": dict(sorted(statuses.items())),
           "failures of the server": statuses["500"], "files told": sum(b"root:" in answer for _, answer in answers),
           "forged hosts answered": len(forged), "honest requests": len(honest.seconds),
           "honest ones not answered": honest.failed, "slowest honest seconds": round(max(honest.seconds), 2),
           "before": before, "after": after}
    return {**row, "times": requests, "harmed": harm(row),
            "note": {"seconds": row["slowest honest seconds"], "megabytes": max(after["MB"] - before["MB"], 0)}}


def harm(row: dict[str, Any]) -> int:
    """How much of what was promised did not hold."""
    before, after = row["before"], row["after"]
    return (row["failures of the server"] + row["files told"] + row["forged hosts answered"]
            + len(row["honest ones not answered"]) + (not row["alive"])
            + (row["slowest honest seconds"] >= HONEST_SECONDS) + (after["files"] > before["files"])
            + (after["threads"] > before["threads"] + 1) + (after["MB"] >= before["MB"] + BACK_WITHIN_MB))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500, help="to send (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("folder", nargs="?", type=Path, help="a folder to keep; default: none")
    asked = parser.parse_args()
    found = attacked(asked.requests, asked.seed)
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
        (asked.folder / "row.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return int(found["harmed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
