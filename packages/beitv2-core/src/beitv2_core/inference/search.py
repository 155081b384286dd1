# SPDX-License-Identifier: Apache-2.0
"""The images of a file of features that are most similar to another image."""

from __future__ import annotations

import os
from typing import NamedTuple, Optional

import numpy as np

from ..errors import CheckpointError, ConfigError, DataError
from .embedding_file import Embeddings
from .loaded import LoadedModel, Picture, load_model

_ROWS = 8192


class Found(NamedTuple):
    """An image of the file: its number, its path as the file has it, and the cosine of its feature to the query's."""

    number: int
    path: str
    cosine: float


def model_of(file: Embeddings, source: Optional[str] = None) -> LoadedModel:
    """The model that made the features of a file, set up as it was.

    source: where it lies, if not where it lay.  Raises CheckpointError for another model.
    """
    known = file.meta
    beside = os.path.join(str(known["folder"]), str(known["model"]))
    place = source or (beside if os.path.exists(beside) else str(known["model"]))
    runtime = None if known["runtime"] == "paddle" else known["runtime"]
    model = load_model(place, runtime=runtime, precision=known["precision"], image_size=known["image_size"])
    if model.fingerprint() != known["fingerprint"]:
        raise CheckpointError(f"{place}: not the model that made the features of {file.source}: other weights. Give "
                              "that model by --model, or write the features again.")
    model.crop_share, model.interpolation = known["crop_share"], known["interpolation"]
    model.reading = model.reading._replace(upright=known["upright"])
    return model


def search(file: Embeddings, model: LoadedModel, image: Picture, *, count: int = 10) -> list[Found]:
    """The `count` most similar images, most similar first.

    Raises ConfigError for a file of patches or codes, which are no points in one space.
    """
    what = str(file.meta["what"])
    if what not in ("mean", "cls"):
        raise ConfigError(f"{file.source}: holds {what}; a search needs mean or cls features. Write them with `beitv2 "
                          "embed --what mean`.")
    query = model.features(image, what=what, block=file.meta["block"])[0]
    return nearest(file, query, count=count)


def nearest(file: Embeddings, query: np.ndarray, *, count: int = 10) -> list[Found]:
    """The images whose features (N, D) have the highest cosine to a query (D,); ties by number."""
    if query.shape != file.features.shape[1:]:
        raise DataError(f"{file.source}: features of shape {file.features.shape[1:]}, the query's is {query.shape}. "
                        "Use the model that made them.")
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    cosines = np.empty(len(file.features), np.float32)
    for start in range(0, len(cosines), _ROWS):
        part = file.features[start : start + _ROWS]
        cosines[start : start + len(part)] = part @ query / np.maximum(np.linalg.norm(part, axis=1), 1e-12)
    order = np.argsort(-cosines, kind="stable")[:count]
    return [Found(int(number), file.paths[number], float(cosines[number])) for number in order]
