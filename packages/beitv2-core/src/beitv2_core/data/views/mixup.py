# SPDX-License-Identifier: Apache-2.0
"""Mixup and CutMix of a batch with its reverse, with timm's semantics.

Source: timm 0.4.12 mixup.py (Mixup, rand_bbox, cutmix_bbox_and_lam).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import ConfigError

MODES = ("batch", "pair", "elem")


class Mixup:
    """Mix images with their partners (the batch in reverse order).

    mixup_alpha, cutmix_alpha: parameters of the Beta distributions, 0 switches one off; switch_prob: share of CutMix
    where both are on; prob: share of batches (elements) mixed at all; mode: one share for the "batch", for each "pair"
    or for each "elem".  The share of CutMix is that of the box as it was clipped.
    Calling it with float images (B, C, H, W) and a generator gives (mixed, lam): lam is the share of the own label, a
    float or float32 (B,).  Every process mixes its own batch with its own draws, as the official code does: with mixing
    a run depends on the number of processes.  Raises ConfigError for impossible settings, and for an odd batch in mode
    "pair".
    """

    def __init__(self, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, *, prob: float = 1.0,
                 switch_prob: float = 0.5, mode: str = "batch") -> None:
        if mode not in MODES or min(mixup_alpha, cutmix_alpha) < 0 or not 0 <= prob <= 1 or not 0 <= switch_prob <= 1:
            raise ConfigError(
                f"Mixup: alphas {mixup_alpha}, {cutmix_alpha}, prob {prob}, switch_prob {switch_prob}, mode {mode!r}; "
                f"expected alphas of at least 0, shares in 0 .. 1 and one of {', '.join(MODES)}."
            )
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.prob, self.switch_prob, self.mode = prob, switch_prob, mode
        if not (self.mixup_alpha or self.cutmix_alpha):
            raise ConfigError("Mixup: both alphas are 0; leave mixing out instead.")

    def __call__(self, images: np.ndarray, rng: Any) -> tuple[np.ndarray, Any]:
        """Mix a batch; `rng` is a numpy RandomState or `numpy.random` itself."""
        if self.mode == "batch":
            return self._mix_batch(images, rng)
        if self.mode == "pair" and len(images) % 2:
            raise ConfigError(f"Mixup: mode 'pair' needs an even batch, {len(images)} images came.")
        return self._mix_each(images, rng)

    def _mix_batch(self, images: np.ndarray, rng: Any) -> tuple[np.ndarray, float]:
        if rng.rand() >= self.prob:
            return images, 1.0
        cutmix = self._choose(rng, None)
        lam = float(rng.beta(*[self.cutmix_alpha if cutmix else self.mixup_alpha] * 2))
        if lam == 1.0:
            return images, lam
        if not cutmix:
            return images * np.float32(lam) + images[::-1] * np.float32(1.0 - lam), lam
        (top, bottom, left, right), lam = self.box(images.shape[-2:], lam, rng)
        mixed = images.copy()
        mixed[:, :, top:bottom, left:right] = images[::-1][:, :, top:bottom, left:right]
        return mixed, lam

    def _mix_each(self, images: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
        total = len(images)
        count = total // 2 if self.mode == "pair" else total
        cutmix = self._choose(rng, count)
        if self.mixup_alpha and self.cutmix_alpha:
            drawn = np.where(cutmix, rng.beta(self.cutmix_alpha, self.cutmix_alpha, size=count),
                             rng.beta(self.mixup_alpha, self.mixup_alpha, size=count))
        else:
            alpha = self.cutmix_alpha or self.mixup_alpha
            drawn = rng.beta(alpha, alpha, size=count)
        lam = np.where(rng.rand(count) < self.prob, drawn.astype(np.float32), np.float32(1.0))
        mixed = images.copy()
        for i in range(count):
            share, partner = lam[i], total - 1 - i
            if share == 1.0:
                continue
            both = ((i, partner), (partner, i)) if self.mode == "pair" else ((i, partner),)
            if cutmix[i]:
                (top, bottom, left, right), lam[i] = self.box(images.shape[-2:], share, rng)
                for own, other in both:
                    mixed[own][:, top:bottom, left:right] = images[other][:, top:bottom, left:right]
            else:
                for own, other in both:
                    mixed[own] = images[own] * share + images[other] * (1 - share)
        return mixed, np.concatenate([lam, lam[::-1]]) if self.mode == "pair" else lam

    def _choose(self, rng: Any, count: int | None) -> Any:
        """True (or an array of it) for CutMix; draws only where there is a choice."""
        if self.mixup_alpha and self.cutmix_alpha:
            return (rng.rand() if count is None else rng.rand(count)) < self.switch_prob
        return bool(self.cutmix_alpha) if count is None else np.full(count, bool(self.cutmix_alpha))

    def box(self, size: tuple[int, ...], lam: float, rng: Any) -> tuple[tuple[int, int, int, int], float]:
        """A box (top, bottom, left, right) in an image (height, width), and the share left to the own label."""
        height, width = int(size[0]), int(size[1])
        share = math.sqrt(1 - lam)
        half_h, half_w = int(height * share) // 2, int(width * share) // 2
        y, x = rng.randint(0, height), rng.randint(0, width)
        top, bottom = max(0, y - half_h), min(height, y + half_h)
        left, right = max(0, x - half_w), min(width, x + half_w)
        return (top, bottom, left, right), 1.0 - (bottom - top) * (right - left) / float(height * width)


def soft_targets(labels: np.ndarray, num_classes: int, *, lam: Any = 1.0,
                 smoothing: float = 0.0, partners: np.ndarray | None = None) -> np.ndarray:
    """Targets (B, C) float32 of labels (B,): `lam` of the own label, the rest of the partner's, both smoothed.

    lam: a number or (B,); partners: labels mixed in, default the batch reversed.  A smoothed label is smoothing / C
    everywhere and 1 - smoothing + smoothing / C at its class.  Source: timm mixup.py, mixup_target.
    """
    off = smoothing / num_classes
    on = 1.0 - smoothing + off

    def one_hot(which: np.ndarray) -> np.ndarray:
        rows = np.full((len(which), num_classes), off, dtype=np.float32)
        rows[np.arange(len(which)), which] = on
        return rows

    share = np.asarray(lam, dtype=np.float32).reshape(-1, 1)
    others = labels[::-1] if partners is None else partners
    return one_hot(labels) * share + one_hot(others) * (np.float32(1.0) - share)
