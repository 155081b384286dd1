# SPDX-License-Identifier: Apache-2.0
"""Mixup and CutMix against timm: images, targets, shares and the number of draws, in every mode."""

from __future__ import annotations

import numpy as np
from golden_io import load_golden

from beitv2_core.data.views.mixup import Mixup, soft_targets

SUBJECT = ("mixup",)


def test_mixed_batches_targets_and_shares(fixture_path):
    arrays, meta = load_golden(fixture_path)
    cases = {name: {**meta["base"], **changes} for name, changes in meta["cases"].items()}
    # timm's boxes of drawn sides and its share before clipping: no recipe asks for them, and no setting offers them
    cases = {name: settings for name, settings in cases.items()
             if settings.pop("cutmix_minmax") is None and settings.pop("correct_lam")}
    compared = 0
    for case, settings in cases.items():
        smoothing, classes = settings.pop("label_smoothing"), settings.pop("num_classes")
        mix = Mixup(**settings)
        for seed, recorded in meta["draws"][case].items():
            rng, at = np.random.RandomState(int(seed)), f"{case}/seed{seed}"
            mixed, lam = mix(arrays["input/x"], rng)
            np.testing.assert_allclose(mixed, arrays[f"{at}/x"], atol=1e-6, err_msg=at)
            np.testing.assert_allclose(np.ravel(lam), np.ravel(arrays[f"{at}/lam"]), atol=1e-6, err_msg=at)
            targets = soft_targets(arrays["input/y"], classes, lam=lam, smoothing=smoothing)
            np.testing.assert_allclose(targets, arrays[f"{at}/target"], atol=1e-6, err_msg=at)
            assert rng.rand() == recorded["next_numpy_rand"], at
            compared += 1
    assert compared >= len(cases) >= 5
