# SPDX-License-Identifier: Apache-2.0
"""Exported classifiers in PaddleX (entry point `beitv2.paddlex`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from beitv2_core.exported_model import read_description
from beitv2_core.paddlex import PaddleXModel, as_exported, transform_ops


def _settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    classes = list(facts["classes"])
    return {"PreProcess": {"transform_ops": transform_ops(facts)},
            "PostProcess": {"Topk": {"topk": min(5, len(classes)), "label_list": classes}}}


class TopkOfLogits:
    """PaddleX's `Topk`, which takes probabilities, of logits (B, classes).

    Departs: class numbers are a list, which PaddleX 3.7 gives out image by image; an array of a batch it gives every
    image as a whole.
    """

    def __init__(self, topk: Any):
        self.topk = topk

    def __call__(self, preds: Sequence[np.ndarray], topk: int) -> Any:
        """Class numbers, probabilities and names of the `topk` likeliest classes."""
        numbers, *rest = self.topk([softmax(preds[0], axis=1)], topk=topk)
        return (list(numbers), *rest)


def _predictor() -> type:
    from paddlex.inference.models.image_classification.predictor import ClasRunnerPredictor

    class BEiTv2Classifier(ClasRunnerPredictor):
        """PaddleX's classifier: class numbers, scores and names."""

        def _build(self) -> tuple[dict[str, Any], dict[str, Any]]:
            before, after = super()._build()
            known = read_description(self.model_dir)
            return as_exported(before, known), {**after, "Topk": TopkOfLogits(after["Topk"])}

    return BEiTv2Classifier


CLASSIFIER = PaddleXModel("BEiTv2-classifier", _settings, _predictor)
