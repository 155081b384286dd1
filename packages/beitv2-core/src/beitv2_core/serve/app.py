# SPDX-License-Identifier: Apache-2.0
"""The page and the JSON API, independent of models: they see views only."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Callable, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from .. import __version__
from ..errors import ConfigError
from ..runtime import give_back_memory
from .image import FORMATS, KINDS, read_image
from .problem import ErrorAnswer, Problem
from .results import Result
from .security import Guard, content_policy, read_body
from .views import View
from .worker import Worker

log = logging.getLogger("beitv2_core")
PAGE = "page.html"
STYLES, SCRIPTS = ("page.css",), ("draw.js", "page.js")  # put into the page: it is one answer
#: without a request, after which the memory of those before is given back
REST_SECONDS = 3.0
DOCS = "/docs"
DOCS_FILES = "/docs-files"
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is empty or incomplete"},
    403: {"description": "The Host header names another host"},
    408: {"description": "The body was not received in time"},
    413: {"description": "Too many bytes or pixels"},
    415: {"description": "Not an image, or a Content-Type that is not one of an image"},
    422: {"description": "A damaged or very narrow image"},
    500: {"description": "The server failed; the answer names a reference into its log"},
    503: {"description": "The queue is full"},
    504: {"description": "The result took too long"},
}
BODY = {"required": True, "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in
                                      ("application/octet-stream", "image/jpeg", "image/png", "image/webp")}}


class Limits(NamedTuple):
    """Limits of one request and of the queue.

    max_bytes: of the body; max_pixels: of the image; timeout: seconds for receiving the body, and again for the result;
    waiting: requests that may wait while one is computed.
    """

    max_bytes: int = 10_000_000
    max_pixels: int = 50_000_000
    timeout: float = 30.0
    waiting: int = 8


class ViewInfo(BaseModel):
    """A view of this server."""

    name: str
    title: str
    about: str
    address: str = Field(description="POST an image there")


class Info(BaseModel):
    """Views and limits of this server."""

    title: str
    version: str
    views: list[ViewInfo]
    formats: list[str]
    max_bytes: int
    max_pixels: int
    timeout: float = Field(description="seconds")


class Health(BaseModel):
    """State of the server and of its queue."""

    status: str = "ok"
    taken: int = Field(description="queue slots in use: requests that run, wait or send their body")
    places: int = Field(description="queue slots in total")


class ImageFacts(BaseModel):
    """The image as received."""

    format: str
    width: int = Field(description="pixels, after turning it upright if the run does so")
    height: int
    notes: list[str] = Field(description="notes on its conversion to 8-bit RGB")


class Answer(BaseModel):
    """The result of a view for one image."""

    view: str
    image: ImageFacts
    seconds: float = Field(description="time of decoding and computing, without waiting")
    result: Result


def create_app(
    views: Sequence[View], *, title: str = "BEiT v2", limits: Limits | None = None, hosts: Sequence[str] | None = None
) -> FastAPI:
    """The web application that shows `views` in this order.

    title: of the page; limits: default `Limits()`; hosts: names accepted in the Host header, None for any.
    Raises ConfigError for no view, for two views of one name, and for names other than a-z, 0-9 and -.
    """
    names = [view.name for view in views]
    if not views or len(set(names)) < len(names) or not all(re.fullmatch("[a-z0-9-]+", name) for name in names):
        raise ConfigError(f"create_app: views {names}; expected at least one, with distinct names of the characters "
                          "a-z, 0-9 and -.")
    limits = limits or Limits()
    worker = Worker(limits.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidy(worker))
        yield
        tidying.cancel()
        worker.close()

    app = FastAPIOffline(
        title="BEiT v2", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        static_url=DOCS_FILES,
        description="Results of trained models for an image. Send the bytes of the image as the request body. Every "
                    "error is JSON that says where it is, what was received, what was expected and what to do.",
        openapi_tags=[{"name": "views", "description": "Send an image, get a result"}, {"name": "server"}],
    )
    app.add_middleware(Guard, hosts=hosts)
    _add_error_answers(app)
    _add_pages(app)
    info = Info(title=title, version=__version__, formats=list(FORMATS), max_bytes=limits.max_bytes,
                max_pixels=limits.max_pixels, timeout=limits.timeout,
                views=[ViewInfo(name=view.name, title=view.title, about=view.about, address=f"/api/views/{view.name}")
                       for view in views])

    @app.get("/api/info", tags=["server"], summary="Views and limits")
    async def read_info() -> Info:
        return info

    @app.get("/health", tags=["server"], summary="State of the server")
    async def read_health() -> Health:
        return Health(taken=worker.taken, places=worker.places)

    responses = {status: {**text, "model": ErrorAnswer} for status, text in ERRORS.items()}
    for view in views:
        app.add_api_route(
            f"/api/views/{view.name}", _endpoint(view, worker, limits), methods=["POST"], response_model=Answer,
            tags=["views"], summary=view.title, description=f"{view.about} The body is an image ({KINDS}) of at most "
            f"{limits.max_bytes:,} bytes and {limits.max_pixels:,} pixels.", operation_id=f"show-{view.name}",
            responses=responses, openapi_extra={"requestBody": BODY},
        )
    return app


def _endpoint(view: View, worker: Worker, limits: Limits) -> Callable[..., Any]:
    def compute(body: bytes) -> Answer:
        start = time.perf_counter()
        image = read_image(body, max_pixels=limits.max_pixels, upright=view.upright)
        facts = ImageFacts(format=image.format, width=image.image.width, height=image.image.height,
                             notes=image.notes)
        result = view.show(image.image)
        seconds = time.perf_counter() - start
        log.info("%s: %s, %d x %d, %.3f s", view.name, facts.format, facts.width, facts.height, seconds)
        return Answer(view=view.name, image=facts, seconds=seconds, result=result)

    async def show(request: Request) -> Answer:
        with worker.place() as place:
            body = await place.receive(read_body(request, max_bytes=limits.max_bytes), timeout=limits.timeout)
            try:
                return await place.run(lambda: compute(body), timeout=limits.timeout)
            except Problem:
                raise
            except Exception as error:  # may name files of this machine: for the log only
                reference = secrets.token_hex(4)
                log.error("%s failed, reference %s", view.name, reference, exc_info=error)
                raise Problem(500, "the server", f"It failed (reference {reference}).", "Expected a result.",
                              "Try another image, or look the reference up in the log of the server.") from None

    return show


def _add_pages(app: FastAPI) -> None:
    page = _page()
    headers = {"Content-Security-Policy": content_policy(page), "Cache-Control": "no-cache"}

    @app.get("/", include_in_schema=False)
    async def read_page() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    api_page = bytes(get_swagger_ui_html(
        openapi_url=str(app.openapi_url), title=f"{app.title} API", swagger_js_url=f"{DOCS_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{DOCS_FILES}/swagger-ui.css", swagger_favicon_url=f"{DOCS_FILES}/favicon.png",
    ).body).decode("utf-8")
    api_headers = {"Content-Security-Policy": content_policy(api_page, own_files=True)}

    @app.get(DOCS, include_in_schema=False)
    async def read_api_page() -> HTMLResponse:
        return HTMLResponse(api_page, headers=api_headers)


def _page() -> str:
    """The page with its styles and scripts inside."""
    def read(*names: str) -> str:
        return "".join(resources.files(__package__).joinpath(name).read_text(encoding="utf-8") for name in names)

    styled = read(PAGE).replace("<style></style>", f"<style>\n{read(*STYLES)}</style>")
    return styled.replace("<script></script>", f"<script>\n{read(*SCRIPTS)}</script>")


async def _tidy(worker: Worker) -> None:
    """Give the memory of large images back when nothing has been asked for `REST_SECONDS`."""
    seen = given_back = 0
    while True:
        await asyncio.sleep(REST_SECONDS)
        if worker.accepted == seen != given_back and not worker.taken:
            give_back_memory()
            given_back = seen
        seen = worker.accepted


def _add_error_answers(app: FastAPI) -> None:
    def answer(problem: Problem, headers: Any = None) -> JSONResponse:
        headers = {**(headers or {}), **({"Retry-After": "2"} if problem.status == 503 else {})}
        return JSONResponse(problem.answer.model_dump(), problem.status, headers=headers)

    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Problem) -> JSONResponse:
        return answer(error)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        known = ", ".join(sorted(f"{'/'.join(sorted(methods))} {path}" for path, methods in _routes(app)))
        return answer(Problem(error.status_code, "the address", f"{request.method} {request.url.path}: {error.detail}.",
                              f"Expected one of: {known}.", f"See {DOCS}."), error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(Problem(422, "the request", "It does not have the expected form.",
                              f"Expected the form that {DOCS} describes.", "Correct it."))


def _routes(app: FastAPI) -> list[tuple[str, set[str]]]:
    return [(path, {method.upper() for method in methods}) for path, methods in app.openapi()["paths"].items()]
