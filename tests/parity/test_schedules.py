# SPDX-License-Identifier: Apache-2.0
"""Cosine schedules equal the official utils.cosine_scheduler at every step."""

from __future__ import annotations

import numpy as np
from golden_io import load_golden

from beitv2_core.engine.schedule import step_schedule

SUBJECT = "schedules"


def ours(base_value, final_value, epochs, niter_per_ep, warmup_epochs=0, start_warmup_value=0.0, warmup_steps=-1):
    """Our schedule of the official arguments, which count in epochs."""
    return step_schedule(base_value, final_value, total_steps=epochs * niter_per_ep,
                         warmup_steps=warmup_steps if warmup_steps > 0 else warmup_epochs * niter_per_ep,
                         start_warmup_value=start_warmup_value)


def test_every_case_equals_the_official_array(fixture_path):
    arrays, meta = load_golden(fixture_path)
    for name, array in arrays.items():
        np.testing.assert_allclose(ours(**meta["cases"][name]["args"]), array, rtol=0, atol=1e-12, err_msg=name)
