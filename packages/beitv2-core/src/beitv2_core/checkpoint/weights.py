"""Weights files from a path or a URL, checked against their hash."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from beitv2_core.errors import MissingDependencyError, WeightsError

logger = logging.getLogger("beitv2_core")


def resolve_weights(path_or_url: str | Path, sha256: str | None = None) -> Path:
    """The local file of a path or of an http(s) or file URL; a download is kept in `cache_folder()` and made once.

    sha256: 64 hex digits the file must have; a download without it is reported with the hash it has.
    Raises WeightsError where the file is missing, cannot be fetched or has another hash; the message gives the URL, the
    expected hash and where to put the file by hand.
    """
    source = str(path_or_url)
    sha256 = sha256.lower() if sha256 else None
    scheme = urlparse(source).scheme if "://" in source else ""
    if scheme in ("http", "https"):
        return _download(source, sha256)
    if scheme not in ("", "file"):
        raise WeightsError(f"{source}: cannot fetch {scheme}://. Give a path, or a URL of http, https or file.")
    path = Path(url2pathname(unquote(urlparse(source).path))) if scheme else Path(source).expanduser()
    if not path.exists():
        raise WeightsError(f"{source}: no such file. Check the path, or give a URL (http, https) to fetch it from.")
    if sha256 is not None:
        found = _hash_of(path, source)
        if found != sha256:
            raise WeightsError(
                f"{source}: SHA-256 is {found}, expected {sha256}. It is another or a damaged file: fetch it again, or "
                "correct the expected hash."
            )
    return path


def cache_folder() -> Path:
    """Where downloads are kept: the variable BEITV2_CACHE, else the system's cache folder for `beitv2`."""
    return Path(os.environ.get("BEITV2_CACHE") or _pooch().os_cache("beitv2")).expanduser()


def cached_path(url: str) -> Path:
    """Where the download of a URL is kept; a file put there by hand is used like a download."""
    name = Path(unquote(urlparse(url).path)).name or "weights"
    return cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def _download(url: str, sha256: str | None) -> Path:
    target = cached_path(url)
    fresh = not target.exists()
    try:
        _pooch().retrieve(url, f"sha256:{sha256}" if sha256 else None, fname=target.name, path=target.parent)
    except Exception as error:  # the network, the disk and a wrong hash each raise their own types
        expected = f"SHA-256 {sha256}" if sha256 else "no SHA-256 was given"
        raise WeightsError(
            f"{url}: could not be fetched ({type(error).__name__}: {error}). Expected: {expected}. "
            f"Fetch it by hand and put it at {target}, or give the path of a local copy."
        ) from error
    if sha256 is None and fresh:
        logger.warning("%s: fetched without an expected hash; its SHA-256 is %s.", url, _hash_of(target, url))
    return target


def _hash_of(path: Path, source: str) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read to check its SHA-256: {error}. Give a readable file.") from error
    return digest.hexdigest()


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise MissingDependencyError(
            "Fetching weights needs pooch, which is not installed. Type: pip install pooch"
        ) from error
    # Its own log lines would come before ours and say less.
    pooch.get_logger().setLevel("ERROR")
    return pooch
