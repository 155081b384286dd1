# SPDX-License-Identifier: Apache-2.0
"""The JSON API with views made for the test: answers, limits, queue, headers, and errors in one form."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("fastapi_offline", reason="the extra 'serve' is not installed")
httpx = pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from beitv2_core.errors import ConfigError, ShapeError  # noqa: E402
from beitv2_core.serve import app, worker  # noqa: E402
from beitv2_core.serve.app import Limits, create_app  # noqa: E402
from beitv2_core.serve.results import ClassesResult, ClassShare, image_url, label_map_result  # noqa: E402
from beitv2_core.serve.security import content_policy, host_name  # noqa: E402
from beitv2_core.serve.views import View  # noqa: E402

PNG = {"Content-Type": "image/png"}


def png_bytes(size=(32, 24), colour="red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def show_classes(image):
    return ClassesResult(seen=image_url(image), classes=[ClassShare(name="cat", probability=0.75)])


def show_halves(image):
    labels = (np.arange(image.width) >= image.width // 2).astype(int)[None].repeat(image.height, 0)
    return label_map_result(image, labels, ["left", "right"])


CLASSES = View("classes", "Classes", "The likeliest classes.", show_classes)
SEGMENTATION = View("segmentation", "Segmentation", "A class for every pixel.", show_halves)


def client(*views, **options) -> TestClient:
    return TestClient(create_app(views or (CLASSES, SEGMENTATION), **options))


def error(answer, status) -> str:
    """The words of an error answer, whose form is checked."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"where", "what", "expected", "do"}
    assert all(answer.json()["error"].values())
    return " ".join(answer.json()["error"].values())


def post(app, receive):
    """Status and JSON of a request whose body comes from `receive`, part by part (TestClient sends it in one piece)."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
             "path": "/api/views/classes", "raw_path": b"/api/views/classes", "query_string": b"", "root_path": "",
             "headers": [(b"host", b"test"), (b"content-type", b"image/png")], "client": ("t", 1), "server": ("t", 80)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_image_gets_the_result_of_each_view():
    here = client()
    answer = here.post("/api/views/classes", content=png_bytes(), headers=PNG).json()
    assert answer["view"] == "classes"
    assert answer["image"] == {"format": "PNG", "width": 32, "height": 24, "notes": []}
    assert answer["result"]["classes"] == [{"name": "cat", "probability": 0.75}]
    assert 0 < answer["seconds"] < 10
    octets = {"Content-Type": "application/octet-stream"}
    answer = here.post("/api/views/segmentation", content=png_bytes(), headers=octets).json()
    assert [(one["name"], one["share"]) for one in answer["result"]["classes"]] == [("left", 0.5), ("right", 0.5)]


def test_info_tells_views_and_limits_and_health_how_busy_it_is():
    here = client(title="run 7", limits=Limits(max_bytes=1234, waiting=2))
    info = here.get("/api/info").json()
    assert info["title"] == "run 7" and info["max_bytes"] == 1234
    assert [view["address"] for view in info["views"]] == ["/api/views/classes", "/api/views/segmentation"]
    assert here.get("/health").json() == {"status": "ok", "taken": 0, "places": 3}


def test_openapi_describes_every_view_and_error_and_its_page_needs_no_other_server():
    here = client()
    paths = here.get("/openapi.json").json()["paths"]
    described = paths["/api/views/segmentation"]["post"]
    assert "image/png" in described["requestBody"]["content"]
    assert {"200", "400", "403", "408", "413", "415", "422", "500", "503", "504"} == set(described["responses"])
    page = here.get("/docs")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert addresses and all(here.get(address).status_code == 200 for address in addresses)
    assert all(address.startswith("/") for address in addresses)


def test_the_page_names_no_other_server_and_its_policy_allows_only_itself():
    answer = client().get("/")
    policy = answer.headers["content-security-policy"]
    assert policy == content_policy(answer.text)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert policy.count("sha256-") == 2
    assert set(re.findall(r"https?://[\w./]+", answer.text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"""\son\w+\s*=\s*["']|\sstyle\s*=\s*["']|innerHTML|insertAdjacentHTML""", answer.text)


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/nothing", "/api/views/classes"])
def test_every_answer_has_the_security_headers(path):
    headers = client().get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_unknown_addresses_and_methods_list_what_there_is():
    here = client()
    assert "POST /api/views/classes" in error(here.get("/api/views/colours"), 404)
    assert "POST /api/views/classes" in error(here.get("/api/views/classes"), 405)


def test_an_announced_size_over_the_limit_is_refused_unread():
    here = client(limits=Limits(max_bytes=100))
    assert "at most 100 bytes" in error(here.post("/api/views/classes", content=b"x" * 101, headers=PNG), 413)


def test_an_unannounced_size_is_refused_while_reading():
    sent = []

    async def endless():
        sent.append(1)
        assert len(sent) < 50, "the server reads on"
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    status, answer = post(create_app([CLASSES], limits=Limits(max_bytes=1000)), endless)
    assert status == 413 and "at most 1,000 bytes" in answer["error"]["expected"]
    assert len(sent) == 11


def test_a_body_that_ends_early_is_told():
    parts = [{"type": "http.request", "body": png_bytes()[:20], "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return parts.pop(0)

    status, answer = post(create_app([CLASSES]), receive)
    assert status == 400 and "closed before its end" in answer["error"]["what"]


def test_the_limit_itself_is_allowed():
    data = png_bytes()
    assert client(limits=Limits(max_bytes=len(data))).post("/api/views/classes", content=data,
                                                           headers=PNG).status_code == 200


def test_pixels_over_the_limit_are_refused():
    here = client(limits=Limits(max_pixels=700))
    assert "32 x 24" in error(here.post("/api/views/classes", content=png_bytes(), headers=PNG), 413)


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded",
                                  "application/json", None])
def test_what_a_foreign_form_can_send_is_refused(kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client().post("/api/views/classes", content=png_bytes(), headers=headers)
    assert "curl --data-binary" in error(answer, 415)


def test_no_image_and_a_damaged_one_are_told_apart():
    here = client()
    assert "empty" in error(here.post("/api/views/classes", content=b"", headers=PNG), 400)
    assert "no readable image" in error(here.post("/api/views/classes", content=b"<html>", headers=PNG), 415)
    assert "cannot be decoded" in error(here.post("/api/views/classes", content=png_bytes()[:50], headers=PNG), 422)


def test_a_failing_view_shows_a_reference_and_nothing_of_the_machine(caplog, monkeypatch):
    monkeypatch.setattr("beitv2_core.serve.app.log.propagate", True)  # the command line sets it to False

    def fail(image):
        raise ShapeError("/secret/runs/7: weights are (3, 4)")

    here = client(View("broken", "Broken", "Fails.", fail))
    answer = here.post("/api/views/broken", content=png_bytes(), headers=PNG)
    words = error(answer, 500)
    assert "secret" not in answer.text
    reference = re.search(r"reference (\w{8})", words).group(1)
    assert reference in caplog.text and "/secret/runs/7" in caplog.text


def test_a_view_that_answers_something_else_is_a_failure_of_the_server():
    answer = client(View("odd", "Odd", "No result.", lambda image: {"kind": "poem"})).post(
        "/api/views/odd", content=png_bytes(), headers=PNG)
    error(answer, 500)


def test_other_hosts_are_refused_where_hosts_are_given():
    here = client(hosts=["127.0.0.1", "localhost"])
    for host in ("localhost", "127.0.0.1:8000", "LOCALHOST:80"):
        assert here.get("/health", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:8000", "", "127.0.0.1.evil"):
        answer = here.get("/api/info", headers={"Host": host})
        assert "--allow-host" in error(answer, 403)
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert [host_name(host) for host in ("[::1]:8000", "[::1]", "A.b:1")] == ["::1", "::1", "a.b"]


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a/b"], [""], ["Ä"]])
def test_views_without_a_name_of_their_own_are_refused(names):
    with pytest.raises(ConfigError, match="distinct names"):
        create_app([CLASSES._replace(name=name) for name in names])


class Gate:
    """A view that waits until the test lets it go on."""

    def __init__(self):
        self.open, self.seen, self.most = threading.Event(), [], 0
        self._inside = 0

    def __call__(self, image):
        self._inside += 1
        self.most = max(self.most, self._inside)
        self.seen.append(image.width)
        assert self.open.wait(20)
        self._inside -= 1
        return show_classes(image)


def in_one_loop(app, work):
    """Run `work(client)` with a client whose requests can overlap."""
    async def run():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=PNG) as here:
            return await work(here)

    return asyncio.run(run())


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not happen within 10 seconds")


def test_one_image_is_computed_at_a_time_in_order_and_a_full_queue_is_told():
    gate = Gate()
    app = create_app([View("slow", "Slow", "Waits.", gate)], limits=Limits(waiting=2, timeout=20))

    async def work(here):
        async def send(width):
            return await here.post("/api/views/slow", content=png_bytes((width, 24)))

        tasks = []
        for width in (30, 31, 32):
            tasks.append(asyncio.create_task(send(width)))
            await asyncio.sleep(0.05)
        await until(lambda: gate.seen)
        assert (await here.get("/health")).json()["taken"] == 3
        refused = await send(33)
        assert "Try again" in error(refused, 503) and refused.headers["retry-after"] == "2"
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 3
        assert (await here.get("/health")).json()["taken"] == 0

    in_one_loop(app, work)
    assert gate.seen == [30, 31, 32] and gate.most == 1


def test_a_result_that_takes_too_long_is_given_up_and_its_place_comes_back_when_it_ends():
    gate = Gate()
    app = create_app([View("slow", "Slow", "Waits.", gate)], limits=Limits(waiting=1, timeout=0.2))

    async def work(here):
        tasks = [asyncio.create_task(here.post("/api/views/slow", content=png_bytes())) for _ in range(2)]
        for answer in await asyncio.gather(*tasks):
            assert "--timeout" in error(answer, 504)
        # The waiting request is forgotten, the running one still has the thread.
        assert (await here.get("/health")).json()["taken"] == 1
        gate.open.set()
        await until(lambda: gate._inside == 0)
        await asyncio.sleep(0.05)
        assert (await here.get("/health")).json()["taken"] == 0
        assert (await here.post("/api/views/slow", content=png_bytes())).status_code == 200

    in_one_loop(app, work)
    assert len(gate.seen) == 2


def test_a_image_that_does_not_arrive_is_given_up_and_its_place_comes_back():
    app = create_app([CLASSES], limits=Limits(timeout=0.1, waiting=0))
    parts = [{"type": "http.request", "body": png_bytes()[:20], "more_body": True}]

    async def receive():
        if not parts:
            await asyncio.sleep(60)
        return parts.pop()

    status, answer = post(app, receive)
    assert status == 408 and "0.1 seconds" in answer["error"]["what"]
    assert TestClient(app).get("/health").json()["taken"] == 0


def test_a_slow_sender_gives_up_its_place_to_the_next_where_there_is_no_other(monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", 0.2)
    app = create_app([CLASSES], limits=Limits(timeout=20, waiting=1))

    async def dribble():
        yield png_bytes()[:20]
        await asyncio.sleep(60)

    async def work(here):
        slow = [asyncio.create_task(here.post("/api/views/classes", content=dribble(), headers=PNG)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert "Try again" in error(await here.post("/api/views/classes", content=png_bytes(), headers=PNG), 503)
        await asyncio.sleep(0.3)
        for _ in range(2):  # one place is enough
            assert (await here.post("/api/views/classes", content=png_bytes(), headers=PNG)).status_code == 200
        assert "others wait" in error(await slow[0], 408) and not slow[1].done()
        slow[1].cancel()
        await asyncio.gather(slow[1], return_exceptions=True)
        assert (await here.get("/health")).json()["taken"] == 0

    in_one_loop(app, work)


def test_memory_is_given_back_once_after_the_requests_have_ended(monkeypatch):
    given_back = []
    monkeypatch.setattr(app, "REST_SECONDS", 0.05)
    monkeypatch.setattr(app, "give_back_memory", lambda: given_back.append(True))
    with client() as one:
        time.sleep(0.3)
        assert not given_back  # nothing was asked yet
        assert one.post("/api/views/classes", content=png_bytes(), headers=PNG).status_code == 200
        time.sleep(0.5)
    assert given_back == [True]
