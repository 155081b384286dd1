# SPDX-License-Identifier: Apache-2.0
"""Published weights, as data: `published_models.yml` has their URLs and what is known of them."""

from __future__ import annotations

import difflib
import functools
import os
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Optional
from urllib.parse import unquote, urlparse

import yaml

from beitv2_core.errors import ConfigError

MIRROR = "BEITV2_MIRROR"


class Number(NamedTuple):
    """One figure; `source`: the page that published it, or the record of our own measurement."""

    metric: str
    value: float
    source: str


class PublishedModel(NamedTuple):
    """A published file.  None, and an empty tuple, mean: not published (`measured`: not measured by us).

    as_published: a teacher reads the file as it is; there is no conversion to our format.
    """

    name: str
    kind: str
    size: str
    trained: str
    url: str
    sha256: Optional[str]
    sha256_prefix: Optional[str]
    bytes: Optional[int]
    page: str
    published: tuple[Number, ...]
    measured: tuple[Number, ...]
    as_published: bool = False

    @property
    def filename(self) -> str:
        """The file's own name, the last part of its URL."""
        return PurePosixPath(unquote(urlparse(self.url).path)).name

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; numbers as objects."""
        return {**self._asdict(), "published": [number._asdict() for number in self.published],
                "measured": [number._asdict() for number in self.measured]}


@functools.lru_cache(maxsize=1)
def published_models() -> dict[str, PublishedModel]:
    """Every published model by name, in the order of the list."""
    text = (resources.files(__package__) / "published_models.yml").read_text(encoding="utf-8")
    models = {}
    for entry in yaml.safe_load(text):
        numbers = {key: tuple(Number(**number) for number in entry[key]) for key in ("published", "measured")}
        models[entry["name"]] = PublishedModel(**{**entry, **numbers})
    return models


def published_kinds() -> list[str]:
    """The kinds of the published models, in the order of the list."""
    return list(dict.fromkeys(model.kind for model in published_models().values()))


def find_model(name: str) -> PublishedModel:
    """The model of that name; ConfigError with the nearest names otherwise."""
    models = published_models()
    if name not in models:
        near = difflib.get_close_matches(name, models, 3, 0.6)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`beitv2 models` lists them."
        raise ConfigError(f"{name!r} is no published model. {hint}")
    return models[name]


def model_at(url: str) -> PublishedModel | None:
    """The published model with that URL, None for any other."""
    return next((model for model in published_models().values() if model.url == url), None)


def mirrored(url: str) -> str:
    """The URL to fetch a published file from: its own, or its path below BEITV2_MIRROR.

    `BEITV2_MIRROR=https://mirror.example/x` turns https://host/a/b.pth into https://mirror.example/x/a/b.pth; a mirror
    may be a folder (file:///srv/weights).  Raises ConfigError where the variable is no such URL.
    """
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return url
    parts = urlparse(mirror)
    if parts.scheme not in ("http", "https", "file") or (parts.scheme != "file" and not parts.netloc):
        raise ConfigError(f"{MIRROR} is {mirror!r}; expected a URL of http, https or file, for example "
                          "https://mirror.example/weights.")
    return mirror.rstrip("/") + urlparse(url).path
