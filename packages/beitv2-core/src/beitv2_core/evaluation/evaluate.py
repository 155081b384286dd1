# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer and a pretrained backbone learnt, in numbers, on images they were not trained on."""

from __future__ import annotations

import heapq
import logging
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from ..data import SampleRng
from ..data.views.transforms import normalise
from ..engine.metrics import perplexity
from ..models.features import block_tokens, feature_of
from .codes import encode

log = logging.getLogger("beitv2_core")
#: most rounds of the probe's optimizer
PROBE_ROUNDS = 2000
#: multiplications of a round of the linear probe; with fewer, threads wait for each other longer than they compute
#: (measured: 2,000 images, 96 features, 10 classes, two cores: 7.4 s in two threads, 2.1 in one)
MANY_PRODUCTS = 2**26


class CodebookStats(NamedTuple):
    """How a codebook is used.

    counts: int64 (num_codes,); used: share of codes seen at least once; perplexity: exp of the entropy of the code
    distribution, 1 to num_codes; most_frequent: share of the commonest code.
    """

    counts: np.ndarray
    used: float
    perplexity: float
    most_frequent: float


class Patch(NamedTuple):
    """One patch and its cosine to its code."""

    cosine: float
    pixels: np.ndarray  # uint8 (h, w, 3)


def codebook_stats(counts: np.ndarray) -> CodebookStats:
    """Usage, perplexity and the most frequent code's share from counts (num_codes,)."""
    most_frequent = float(counts.max() / max(int(counts.sum()), 1))
    return CodebookStats(counts, float((counts > 0).mean()), perplexity(counts), most_frequent)


def nearest_patches(
    tokenizer: Any, batches: Iterable[Any], *, keep: int = 8
) -> tuple[CodebookStats, dict[int, list[np.ndarray]]]:
    """Usage, and for each used code the `keep` patches (uint8 (h, w, 3)) nearest to it, nearest first."""
    counts = np.zeros(tokenizer.num_codes, dtype=np.int64)
    heaps: dict[int, list[tuple[float, int, np.ndarray]]] = {}
    serial = 0
    for images, *_ in batches:
        codes = encode(tokenizer, images)
        counts += np.bincount(codes.ravel(), minlength=tokenizer.num_codes)
        cosines = _cosines(tokenizer, images, codes)
        patches = cut_patches(images, tokenizer.grid)
        for code, cosine, patch in zip(codes.ravel(), cosines.ravel(), patches.reshape(-1, *patches.shape[2:])):
            heap = heaps.setdefault(int(code), [])
            serial += 1
            entry = (float(cosine), -serial, patch)  # the serial number decides ties, so patches are never compared
            if len(heap) < keep:
                heapq.heappush(heap, entry)
            elif entry[0] > heap[0][0]:
                heapq.heapreplace(heap, entry)
    gallery = {code: [entry[2] for entry in sorted(heap, reverse=True)] for code, heap in heaps.items()}
    return codebook_stats(counts), gallery


def _cosines(tokenizer: Any, images: np.ndarray, codes: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        features = F.normalize(tokenizer.features(paddle.to_tensor(images)).astype("float32"), axis=-1)
        chosen = tokenizer.lookup(paddle.to_tensor(codes))
        return (features * chosen).sum(-1).numpy()


def cut_patches(images: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Images (B, 3, H, W) in [0, 1] as patches uint8 (B, N, h, w, 3), row by row."""
    rows, columns = grid
    count, channels, height, width = images.shape
    tiles = images.reshape(count, channels, rows, height // rows, columns, width // columns)
    tiles = tiles.transpose(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, height // rows, width // columns, channels)
    return np.clip(np.rint(tiles * 255), 0, 255).astype(np.uint8)


class MaskedAccuracy(NamedTuple):
    """Share of hidden patches whose code each head predicts, and what guessing the commonest code would give."""

    heads: dict[str, float]
    most_frequent: float
    patches: int


def masked_code_accuracy(
    student: Any, tokenizer: Any, masking: Any, batches: Iterable[Any], *, seed: int = 0
) -> MaskedAccuracy:
    """Accuracy at hidden patches; masks are drawn from (seed, image number), so the result repeats.

    Student and tokenizer see images of the same size here.
    """
    right: dict[str, int] = {}
    counts = np.zeros(tokenizer.num_codes, dtype=np.int64)
    number = 0
    with paddle.no_grad():
        for images, *_ in batches:
            masks = []
            for _ in images:
                masks.append(masking(SampleRng.for_sample(seed, 0, number)).reshape(-1))
                number += 1
            mask = np.stack(masks)
            targets = encode(tokenizer, images)[mask]
            counts += np.bincount(targets, minlength=len(counts))
            logits = student(paddle.to_tensor(normalise(images)), paddle.to_tensor(mask))
            for head, logits_MK in logits.items():
                hits = (logits_MK.argmax(-1).numpy() == targets).sum() if len(targets) else 0  # Paddle 2.6 fails
                right[head] = right.get(head, 0) + int(hits)
    total = max(int(counts.sum()), 1)
    return MaskedAccuracy({head: value / total for head, value in right.items()}, float(counts.max() / total), total)


def pooled_features(
    backbone: Any, batches: Iterable[Any], feature: str = "mean"
) -> tuple[np.ndarray, np.ndarray]:
    """One feature of the last block for each image, float32 (images, width), and the labels (images,).

    feature: "mean" of the patch tokens, "cls" (class token) or "concat" (both, class token first), as
    `models.features.feature_of` defines them: raw for a pretrained backbone, what the head reads for a fine-tuned one.
    """
    parts = ("cls", "mean") if feature == "concat" else (feature,)
    features, labels = [], []
    with paddle.no_grad():
        for images, label, *_ in batches:
            tokens_BTD = block_tokens(backbone, paddle.to_tensor(normalise(images)))
            found = [feature_of(backbone, tokens_BTD, part) for part in parts]
            features.append(paddle.concat(found, axis=-1).numpy())
            labels.append(label)
    return np.concatenate(features), np.concatenate(labels)


def linear_probe(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, inverse_penalty: float = 100.0
) -> float:
    """Accuracy on `test` of a logistic regression fitted to `train`; features are standardised by the training ones.

    inverse_penalty: scikit-learn's C; its default of 1 holds back classes that differ in directions of small variance.
    """
    # scikit-learn takes a second to load
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=PROBE_ROUNDS))
    few = train[0].size * len(np.unique(train[1])) < MANY_PRODUCTS
    with warnings.catch_warnings(), threadpool_limits(1 if few else None, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in one line
        probe.fit(*train)
    if probe[-1].n_iter_.max() >= PROBE_ROUNDS:
        log.info("linear probe: %d rounds did not reach the optimum; its accuracy is that of the last", PROBE_ROUNDS)
    return float(probe.score(*test))
