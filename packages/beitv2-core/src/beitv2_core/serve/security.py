# SPDX-License-Identifier: Apache-2.0
"""Security headers of all answers, and checks of host and body of all requests."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from .problem import Problem

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
_INLINE = re.compile(r"<(script|style)(?![^>]*\bsrc=)[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)


def content_policy(html: str = "", *, own_files: bool = False) -> str:
    """A Content-Security-Policy that allows the inline scripts and styles of `html`, by hash, and nothing else.

    own_files: also scripts and styles served by this server, and the style attributes they set (the API page).
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for tag, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        hashes[tag.lower()].append(f"'sha256-{digest}'")
    scripts, styles = (" ".join(hashes[tag]) or "'none'" for tag in ("script", "style"))
    images = "data: blob:"
    if own_files:
        scripts, styles, images = f"'self' {scripts}", "'self' 'unsafe-inline'", "'self' data:"
    return (f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src {images}; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class Guard:
    """ASGI middleware: adds security headers to every answer and refuses requests for other hosts.

    hosts: names accepted in the Host header, None for any.  A page on another site can point its own name at this
    machine (DNS rebinding) and would then count as the same site; its Host header shows that other name.
    """

    def __init__(self, app: Any, hosts: Sequence[str] | None = None) -> None:
        self._app = app
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", content_policy())
            await send(message)

        host = host_name(Headers(scope=scope).get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            problem = Problem(403, "Host header", f"The request names the host {host!r}.",
                              f"Expected {' or '.join(sorted(self._hosts))}.",
                              "Use that address, or start the server with --allow-host NAME.")
            await JSONResponse(problem.answer.model_dump(), problem.status)(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)


def host_name(host: str) -> str:
    """The name in a Host header, lower case, without port and brackets."""
    return re.sub(r":\d*$", "", host.strip()).strip("[]").lower()


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The body of a request, at most `max_bytes` long.

    Raises Problem 415 for a Content-Type other than image/* or application/octet-stream (a form on another site can
    send neither), 413 as soon as the limit is exceeded, 400 for an empty body.
    """
    how = "Send the file's bytes as the body: curl --data-binary @image.jpg -H 'Content-Type: image/jpeg' ADDRESS"
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise Problem(415, "Content-Type header", f"It is {kind}." if kind else "It is missing.",
                      "Expected image/... or application/octet-stream.", how)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(f"Its Content-Length is {int(announced):,} bytes.", max_bytes)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise _too_large("It is longer than the limit.", max_bytes)
    except ClientDisconnect:
        raise Problem(400, "the request body", "The connection was closed before its end.",
                      "Expected a complete image.", "Send it again.") from None
    if not body:
        raise Problem(400, "the request body", "It is empty.", "Expected an image.", how)
    return bytes(body)


def _too_large(what: str, max_bytes: int) -> Problem:
    return Problem(413, "the request body", what, f"Expected at most {max_bytes:,} bytes.",
                   "Send a smaller image, or start the server with a larger --max-upload.")
