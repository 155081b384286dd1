# SPDX-License-Identifier: Apache-2.0
"""Cosine k-means against the official rounds, with full and with empty clusters."""

from __future__ import annotations

import re

import numpy as np
import paddle
from golden_io import assert_close_output, load_golden

from beitv2_core.models import quantizer as quantizer_module
from beitv2_core.models.kmeans import kmeans
from beitv2_core.models.quantizer import NormEMAQuantizer

SUBJECT = "kmeans"


def test_means_and_counts_match_after_every_recorded_number_of_rounds(fixture_path):
    arrays, meta = load_golden(fixture_path)
    compared = 0
    for case in meta["cases"]:
        samples, initial = (paddle.to_tensor(arrays[f"{case}/{name}"]) for name in ("samples", "init_means"))
        for key in arrays:
            match = re.fullmatch(rf"{case}/means_iter(\d+)", key)
            if match:
                rounds = int(match.group(1))
                got = kmeans(samples, initial.shape[0], num_iters=rounds, initial_means_KC=initial)
                assert_close_output(got.means, arrays[key], key)
                np.testing.assert_array_equal(got.sizes.numpy(), arrays[f"{case}/bins_iter{rounds}"])
                compared += 1
    assert compared


def test_the_first_training_batch_starts_the_codebook_as_the_official_module_does(fixture_path, monkeypatch):
    arrays, meta = load_golden(fixture_path)
    c = meta["config"]
    samples, initial = arrays["plain/samples"], paddle.to_tensor(arrays["plain/init_means"])
    monkeypatch.setattr(quantizer_module, "kmeans", lambda z, count, num_iters: kmeans(
        z, count, num_iters=num_iters, initial_means_KC=initial))
    quantizer = NormEMAQuantizer(c["k"], c["dim"], kmeans_iters=c["iters"])
    assert quantizer.initted.item() == arrays["module/initted_before"][0]
    quantizer.initialise(paddle.to_tensor(samples))
    assert_close_output(quantizer.codebook, arrays["module/after/weight"], "codebook")
    assert quantizer.initted.item() == arrays["module/after/initted"][0]
