# SPDX-License-Identifier: Apache-2.0
"""What a classifier says of images when `beitv2_core.load` made it callable (entry point `beitv2.answers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from beitv2_cls.prediction import logits
from beitv2_core.inference.answers import Answer


class Classified(NamedTuple):
    """logits and probabilities float32 (images, classes), and the names of the classes by number."""

    logits: np.ndarray
    probabilities: np.ndarray
    classes: list[str]


def classifier_answer(loaded: Any, kept: Mapping[str, Any]) -> Answer:
    """Images cut as the model was validated, as `beitv2 predict` cuts them; classes without names have numbers."""

    def answer(images: Sequence[Any]) -> Classified:
        scores = logits(loaded.model, loaded.preprocess(images, crop_share=loaded.answer_crop_share))
        names = loaded.classes or [str(number) for number in range(scores.shape[1])]
        return Classified(scores, softmax(scores, axis=-1), list(names))

    return Answer(answer)
