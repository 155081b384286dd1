# SPDX-License-Identifier: Apache-2.0
"""Mean intersection over union, over the classes that are present."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from beitv2_core.errors import ShapeError

DEFINITION = "classes absent from labels and predictions are left out of the means; ignored pixels are not counted"


class Scores(NamedTuple):
    """iou, accuracy: per class, NaN where the class is absent (accuracy: from the labels); shares of 1."""

    iou: np.ndarray
    accuracy: np.ndarray
    miou: float
    macc: float
    aacc: float

    @property
    def measured(self) -> int:
        """Classes that the mean IoU is over."""
        return int(np.count_nonzero(~np.isnan(self.iou)))


def in_words(scores: Any) -> str:
    """The three means in per cent, and over how many classes; "not measured" where nothing is labelled.

    scores: anything with miou, macc, aacc and iou.
    """
    parts = [f"{name} " + ("not measured" if np.isnan(value) else f"{100 * value:.2f} %")
             for name, value in (("mIoU", scores.miou), ("mAcc", scores.macc), ("aAcc", scores.aacc))]
    parts[0] += f" ({np.count_nonzero(~np.isnan(scores.iou))} of {len(scores.iou)} classes measured)"
    return "   ".join(parts)


class ConfusionMatrix:
    """Counts of (label, prediction) pairs over images; rows are labels.

    Source: mmsegmentation 0.11, core/evaluation/metrics.py: areas, nanmean.  Departs: labels and predictions outside
    0 .. num_classes - 1 raise ShapeError (official: the value num_classes counts as the last class, others vanish).
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def add(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Count one image or a batch: integer arrays of one shape."""
        if prediction.shape != label.shape:
            raise ShapeError(f"ConfusionMatrix: the prediction has shape {prediction.shape}, the label {label.shape}. "
                             "Predict at the label's size.")
        kept = label != self.ignore_index
        label, prediction = label[kept].astype(np.int64), prediction[kept].astype(np.int64)
        for name, values in (("label", label), ("prediction", prediction)):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ShapeError(f"ConfusionMatrix: a {name} is {values.max()}, there are {self.num_classes} classes "
                                 f"(0 .. {self.num_classes - 1}; {self.ignore_index} is ignored). Check num_classes.")
        pairs = np.bincount(label * self.num_classes + prediction, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes)

    def scores(self) -> Scores:
        """IoU, accuracy and their means."""
        hit = np.diag(self.counts).astype(np.float64)
        labelled, predicted = self.counts.sum(1).astype(np.float64), self.counts.sum(0).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            iou, accuracy = hit / (labelled + predicted - hit), hit / labelled
            overall = float(hit.sum() / labelled.sum()) if labelled.any() else float("nan")
        return Scores(iou, accuracy, _nanmean(iou), _nanmean(accuracy), overall)


def _nanmean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
