# SPDX-License-Identifier: Apache-2.0
"""Weights files from a path or a URL, checked against their hash; published ones from a mirror where one is set."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from beitv2_core.errors import WeightsError
from beitv2_core.files.atomic import write_atomically
from beitv2_core.files.cache import cache_folder
from beitv2_core.files.hashing import sha256_of
from beitv2_core.weights.published.registry import MIRROR, PublishedModel, mirrored, model_at

logger = logging.getLogger("beitv2_core")


class Expected(NamedTuple):
    """What is known of a file's SHA-256: all 64 digits, the first few, or nothing."""

    sha256: str | None = None
    prefix: str | None = None

    def holds(self, digest: str) -> bool:
        """Whether a file with that SHA-256 can be the one."""
        return digest == self.sha256 if self.sha256 else digest.startswith(self.prefix or "")

    def __str__(self) -> str:
        if self.sha256:
            return f"SHA-256 {self.sha256}"
        return f"a SHA-256 that starts with {self.prefix}" if self.prefix else "no SHA-256 is published or was given"


def resolve_weights(path_or_url: str | Path, sha256: str | None = None) -> Path:
    """The local file of a path or of an http(s) or file URL; a download is kept in `cache_folder()` and made once.

    sha256: 64 hex digits the file must have.  The URL of a published model (`registry`) brings its own, as far as one
    is published, and is fetched from BEITV2_MIRROR where that is set; a copy in the cache folder under the file's own
    name is used.  A download without any hash is reported with the one it has.
    Raises WeightsError where the file is missing, cannot be fetched or has another hash; the message gives the URL, the
    expected hash and where to put the file by hand.
    """
    source = str(path_or_url)
    expected = Expected(sha256.lower() if sha256 else None)
    scheme = urlparse(source).scheme if "://" in source else ""
    if scheme in ("http", "https"):
        return _fetch(source, expected)
    if scheme not in ("", "file"):
        raise WeightsError(f"{source}: cannot fetch {scheme}://. Give a path, or a URL of http, https or file.")
    return _local(source, expected)


def _local(source: str, expected: Expected) -> Path:
    is_url = source.startswith("file://")
    path = Path(url2pathname(unquote(urlparse(source).path))) if is_url else Path(source).expanduser()
    if not path.exists():
        raise WeightsError(f"{source}: no such file. Check the path, or give a URL (http, https) to fetch it from.")
    if expected != Expected():
        found = _hash_of(path, source)
        if not expected.holds(found):
            raise WeightsError(
                f"{source}: SHA-256 is {found}, expected {expected.sha256 or f'{expected.prefix}...'}. It is another "
                "or a damaged file: fetch it again, or correct the expected hash."
            )
    return path


def cached_path(url: str) -> Path:
    """Where the download of a URL is kept; a file put there by hand is used like a download."""
    name = Path(unquote(urlparse(url).path)).name or "weights"
    return cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def downloaded(model: PublishedModel) -> Path | None:
    """The file of a published model where `beitv2 download` left it: converted, or as published; None: not there."""
    places = (cache_folder() / f"{model.name}.safetensors", cached_path(model.url), cache_folder() / model.filename)
    return next((place for place in places if place.is_file()), None)


def _fetch(url: str, expected: Expected) -> Path:
    target, places, origin = cached_path(url), [cached_path(url)], url
    model = model_at(url)
    if model is not None:
        origin = mirrored(url)
        places.append(cache_folder() / model.filename)
        if expected == Expected():
            expected = Expected(model.sha256, model.sha256_prefix)
    for place in places:
        if place.is_file():
            found = _hash_of(place, url) if expected != Expected() else ""
            if expected.holds(found):
                return place
            logger.warning("%s: SHA-256 is %s, expected %s; it is not used, and fetched again.", place, found, expected)
    if origin.startswith("file://"):
        return _local(origin, expected)
    found = _download(url, origin, target, expected)
    if expected == Expected():
        logger.warning("%s: fetched without an expected hash; its SHA-256 is %s.", url, found)
    return target


def _download(url: str, origin: str, target: Path, expected: Expected) -> str:
    """Put the file at `target`, whole and with the expected hash, or leave what is there; returns its hash."""
    logger.info("%s: fetching it to %s", origin, target)
    try:
        with write_atomically(target) as partial:
            _fetch_whole(origin, partial)
            found = _hash_of(partial, url)
            if not expected.holds(found):
                raise OSError(f"what came has the SHA-256 {found}")
    except Exception as error:  # the network, the disk and a wrong hash each raise their own types
        via = "" if origin == url else f" from {origin} ({MIRROR})"
        raise WeightsError(
            f"{url}: could not be fetched{via} ({type(error).__name__}: {error}). Expected: {expected}. "
            f"Fetch it by hand and put it at {target}, or give the path of a local copy."
        ) from error
    return found


def _fetch_whole(url: str, output: Path) -> None:
    """Download like pooch, but raise where the connection ended early: not every version underneath notices."""
    lengths: list[str | None] = []
    pooch = _pooch()
    pooch.HTTPDownloader(
        headers={"Accept-Encoding": "identity"},
        hooks={"response": lambda response, *_, **__: lengths.append(response.headers.get("Content-Length"))},
    )(url, str(output), pooch)
    announced, came = lengths[-1] if lengths else None, os.path.getsize(output)
    if announced is not None and int(announced) != came:
        raise OSError(f"the connection ended after {came:,} of {int(announced):,} bytes")


def _hash_of(path: Path, source: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read to check its SHA-256: {error}. Give a readable file.") from error


def _pooch() -> Any:
    import pooch

    # Its own log lines would come before ours, with less information.
    pooch.get_logger().setLevel("ERROR")
    return pooch
