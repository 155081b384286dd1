# SPDX-License-Identifier: Apache-2.0
"""What a loaded model says of images when it is called: codes, features, or what an installed package knows of a kind.

Packages add theirs by the entry points `beitv2.answers`: a kind of model -> a function (loaded model, what
`save_pretrained` kept or {}) that returns an `Answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _entry_points

ENTRY_POINTS = "beitv2.answers"


class Answer(NamedTuple):
    """answer: a list of pictures (paths, PIL images, uint8 arrays) -> the output of the kind; keep: what a saved folder
    must hold for the same answers, as plain values."""

    answer: Callable[[Sequence[Any]], Any]
    keep: dict[str, Any] = {}


def codes_answer(loaded: Any, kept: Mapping[str, Any]) -> Answer:
    """Codes int64 (B, rows, columns) of a tokenizer."""

    def answer(images: Sequence[Any]) -> np.ndarray:
        return np.asarray(loaded.features(images, what="codes")).reshape(-1, *loaded.grid)

    return Answer(answer)


def features_answer(loaded: Any, kept: Mapping[str, Any]) -> Answer:
    """The mean of the patch features, float32 (B, D)."""
    return Answer(lambda images: loaded.features(images))


OURS = {"tokenizer": codes_answer, "pretraining": features_answer, "backbone": features_answer,
        "features": features_answer}


def answer_of(loaded: Any, kept: Mapping[str, Any]) -> Answer:
    """How a model of this kind answers; ConfigError where no installed package knows."""
    make = _entry_points.load(ENTRY_POINTS, loaded.kind, OURS, f"{loaded.source}: the answers of a kind of model")
    found: Answer = make(loaded, kept)
    return found
