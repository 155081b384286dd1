# SPDX-License-Identifier: Apache-2.0
"""How far two ways of computing one model give the same answers.

Shape suffixes: B batch, C classes, D width, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: what is measured of a kind of model, in words
WORDS = {"codes_equal": "codes equal", "top1_equal": "top-1 equal", "pixels_equal": "pixels equal",
         "miou": "mIoU of one's labels against the other's", "cosine": "mean cosine",
         "largest_difference": "largest difference"}

#: below these shares a model in eight bits gives noticeably other answers
LEAST = {"codes_equal": 0.97, "top1_equal": 0.995, "miou": 0.97, "cosine": 0.999}


def agreement(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Shares in [0, 1] by name, and the largest absolute difference of any number, of outputs by name.

    codes: codes_equal.  logits (B, C): top1_equal; the top-1 accuracy cannot differ by more than what is left to 1.
    logits (B, C, H, W): pixels_equal, and miou of the labels with those expected as the truth.  mean: cosine, averaged
    over the images.
    """
    found: dict[str, float] = {}
    if "codes" in expected:
        found["codes_equal"] = float((got["codes"] == expected["codes"]).mean())
    elif "logits" in expected and expected["logits"].ndim == 2:
        found["top1_equal"] = float((got["logits"].argmax(1) == expected["logits"].argmax(1)).mean())
    elif "logits" in expected:
        labels, truth = got["logits"].argmax(1), expected["logits"].argmax(1)
        found["pixels_equal"] = float((labels == truth).mean())
        found["miou"] = _miou(labels, truth)
    else:
        one_BD, other_BD = got["mean"].astype(np.float64), expected["mean"].astype(np.float64)
        lengths = np.linalg.norm(one_BD, axis=-1) * np.linalg.norm(other_BD, axis=-1)
        found["cosine"] = float(((one_BD * other_BD).sum(-1) / np.maximum(lengths, 1e-12)).mean())
    numbers = [name for name, value in expected.items() if value.dtype.kind == "f"]
    found["largest_difference"] = max(float(np.abs(got[name].astype(np.float64) - expected[name]).max())
                                      for name in numbers)
    return found


def _miou(labels: np.ndarray, truth: np.ndarray) -> float:
    present = np.unique(truth)
    return float(np.mean([((labels == i) & (truth == i)).sum() / ((labels == i) | (truth == i)).sum()
                          for i in present]))


def too_far(found: Mapping[str, float]) -> list[str]:
    """What of an agreement is below `LEAST`, in words: `codes equal 95.00 % (expected at least 97 %)`."""
    return [f"{in_words({name: found[name]})} (expected at least {100 * least:g} %)" for name, least in LEAST.items()
            if name in found and found[name] < least]


def in_words(found: Mapping[str, float]) -> str:
    """`codes equal 98.10 %   largest difference 0.02`."""
    return "   ".join(f"{WORDS[name]} " + (f"{value:.2g}" if name == "largest_difference" else
                                           f"{value:.5f}" if name == "cosine" else f"{100 * value:.2f} %")
                      for name, value in found.items())
