# SPDX-License-Identifier: Apache-2.0
"""Weights from paths and URLs: hashes are checked, downloads happen once, failures say how to do it by hand."""

from __future__ import annotations

import hashlib
import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from beitv2_core.errors import WeightsError
from beitv2_core.files.cache import cache_folder
from beitv2_core.weights.published.download import cached_path, resolve_weights

CONTENT = b"weights"
HASH = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEITV2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "served" / "vit b.pth"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def server(file):
    """A web server on this machine, with the list of the requests it got."""
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(file.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/vit%20b.pth", requests
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_path_is_passed_through(file):
    assert resolve_weights(file) == file
    assert resolve_weights(str(file), HASH.upper()) == file


def test_a_file_url_is_the_file_itself(file):
    assert resolve_weights(file.as_uri(), HASH) == file


def test_another_hash_names_both(file):
    with pytest.raises(WeightsError, match=f"vit b.pth.*{HASH}, expected {OTHER}"):
        resolve_weights(file, OTHER)


def test_a_missing_path_and_an_unknown_scheme_are_named(tmp_path):
    with pytest.raises(WeightsError, match="none.pth: no such file"):
        resolve_weights(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="s3://.*http, https or file"):
        resolve_weights("s3://bucket/w.pth")


def test_a_folder_has_no_hash(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        resolve_weights(tmp_path, HASH)


def test_a_url_is_fetched_once_into_the_cache(server, cache):
    url, requests = server
    path = resolve_weights(url, HASH)
    assert path == cached_path(url) and path.parent == cache and path.read_bytes() == CONTENT
    assert resolve_weights(url, HASH) == path
    assert len(requests) == 1


def test_a_download_with_another_hash_is_refused_and_not_kept(server):
    url, _ = server
    with pytest.raises(WeightsError, match=OTHER) as caught:
        resolve_weights(url, OTHER)
    assert url in str(caught.value) and str(cached_path(url)) in str(caught.value)
    assert not cached_path(url).exists()


def test_a_download_without_a_hash_reports_the_one_it_has(server, caplog):
    with caplog.at_level(logging.WARNING, logger="beitv2_core"):
        resolve_weights(server[0])
    assert HASH in caplog.text


def test_a_failed_download_says_what_to_do_by_hand_and_that_works(cache):
    url = "http://127.0.0.1:9/ViT-B-16.pt"
    with pytest.raises(WeightsError) as caught:
        resolve_weights(url, HASH)
    message = str(caught.value)
    assert url in message and HASH in message and str(cached_path(url)) in message
    cache.mkdir(exist_ok=True)
    cached_path(url).write_bytes(CONTENT)
    assert resolve_weights(url, HASH) == cached_path(url)


def test_the_cache_follows_the_variable(cache):
    assert cache_folder() == cache
