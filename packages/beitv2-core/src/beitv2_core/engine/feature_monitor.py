# SPDX-License-Identifier: Apache-2.0
"""Measurements of a backbone while it is pretrained: its features' spectrum, its codes, its nearest neighbours.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn

from beitv2_core.engine.metrics import perplexity
from beitv2_core.engine.neighbours import leave_one_out_accuracy
from beitv2_core.engine.spectrum import alpha_req, effective_rank, rankme
from beitv2_core.layers.collective import all_reduce_sum

#: forward passes of an image that one step costs for each of its images: forward, backward, and the tokenizer
PASSES_OF_A_STEP = 4
#: images below which the spectrum of their features is noise
FEWEST_IMAGES = 8
#: share of a run that `every: auto` lets its measurements cost
MOST_COST = 0.015


class Pictures(NamedTuple):
    """Images as they are stored, uint8 (M, H, W, 3), and their labels int64 (M,) where they have some."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None


def affordable_every(images: int, images_per_step: int) -> int:
    """Steps between two measurements of so many images that cost at most `MOST_COST` of a run, by their passes."""
    return math.ceil(images / (PASSES_OF_A_STEP * images_per_step * MOST_COST))


class FeatureMonitor:
    """Measures a model every `every` updates and after the last one; counts the codes of training between log lines.

    images: held out, central crops, no masks.  prepare: uint8 (B, H, W, 3) to what the model reads.  labelled: images
    of class folders, for nearest neighbours.  Nothing here draws a random number or leaves another mode behind, so
    training is the same to the bit with it and without.  Every process measures the same images for itself.
    """

    def __init__(self, images: Pictures, *, prepare: Callable[[NDArray[np.uint8]], NDArray[np.float32]], every: int,
                 total_steps: int, num_codes: int, batch_size: int, labelled: Pictures | None = None):
        self.images, self.labelled, self.prepare = images, labelled, prepare
        self.every, self.total_steps, self.batch_size = every, total_steps, batch_size
        self.counts_2K = paddle.zeros([2, num_codes], dtype="float64")

    def due(self, step: int) -> bool:
        """Whether it measures after update `step` (from 0)."""
        return (step + 1) % self.every == 0 or step + 1 == self.total_steps

    def measure(self, model: Any) -> dict[str, float]:
        """rankme, effective_rank and alpha_req of the features of at least `FEWEST_IMAGES` held-out images; acc_knn of
        labelled ones."""
        values: dict[str, float] = {}
        if len(self.images.pixels) >= FEWEST_IMAGES:
            features = self.features(model, self.images.pixels)
            values = {"rankme": rankme(features), "effective_rank": effective_rank(features),
                      "alpha_req": alpha_req(features)}
        if self.labelled is not None and self.labelled.labels is not None:
            own = self.features(model, self.labelled.pixels)
            values["acc_knn"] = leave_one_out_accuracy(own, self.labelled.labels)
        return values

    @paddle.no_grad()
    def features(self, model: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The mean patch feature (M, D) of the last block for each image, in eval mode and float32."""
        with eval_mode(model):
            parts = []
            for start in range(0, len(pixels), self.batch_size):
                images = paddle.to_tensor(self.prepare(pixels[start:start + self.batch_size]))
                tokens_BTD, _ = model.forward_tokens(images)
                parts.append(tokens_BTD[:, 1:].mean(axis=1).astype("float32").numpy())
        return np.concatenate(parts)

    @paddle.no_grad()
    def track(self, targets_M: paddle.Tensor, predicted_M: paddle.Tensor) -> None:
        """Count the codes of hidden patches of all processes, and those predicted for them; waits for no GPU."""
        none_K = paddle.zeros([self.counts_2K.shape[1]], dtype="float64")
        added = [paddle.scatter_nd_add(none_K, codes.unsqueeze(-1), paddle.ones([codes.shape[0]], dtype="float64"))
                 for codes in (targets_M, predicted_M)]
        self.counts_2K = self.counts_2K + all_reduce_sum(paddle.stack(added))

    def log_values(self) -> dict[str, float]:
        """Share and perplexity of the codes of the hidden patches and of those predicted since the last call.

        acc_commonest: the share of the commonest code, which is the accuracy of predicting nothing else.
        """
        targets, predicted = self.counts_2K.numpy()
        self.counts_2K = paddle.zeros_like(self.counts_2K)
        if not targets.sum():
            return {}
        return {"usage_targets": float((targets > 0).mean()), "usage_predicted": float((predicted > 0).mean()),
                "perplexity_targets": perplexity(targets), "perplexity_predicted": perplexity(predicted),
                "acc_commonest": float(targets.max() / targets.sum())}

    def state(self) -> NDArray[Any]:
        """The counts (2, K) since the last log line."""
        return np.asarray(self.counts_2K.numpy())

    def load_state(self, counts_2K: NDArray[Any]) -> None:
        """Take back what `state` gave."""
        self.counts_2K = paddle.to_tensor(counts_2K)


class eval_mode:  # noqa: N801  # reads as a context, like `no_grad`
    """A context in which a model is in eval mode; every layer then has the mode it had."""

    def __init__(self, model: nn.Layer):
        self.model = model

    def __enter__(self) -> None:
        self.training = [layer.training for layer in self.model.sublayers(include_self=True)]
        self.model.eval()

    def __exit__(self, *exc: object) -> None:
        for layer, training in zip(self.model.sublayers(include_self=True), self.training):
            layer.training = training
