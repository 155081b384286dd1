# SPDX-License-Identifier: Apache-2.0
"""Cosine schedules equal the official utils.cosine_scheduler at every step."""

from __future__ import annotations

import numpy as np
import pytest
from golden_io import load_golden

from beitv2_core.engine.schedule import cosine_schedule
from beitv2_core.errors import ConfigError

SUBJECT = "schedules"


def test_every_case_equals_the_official_array(fixture_path):
    arrays, meta = load_golden(fixture_path)
    for name, array in arrays.items():
        ours = cosine_schedule(**meta["cases"][name]["args"])
        np.testing.assert_allclose(ours, array, rtol=0, atol=1e-12, err_msg=name)


def test_what_the_official_function_refuses_is_a_config_error(fixture_path):
    arrays, meta = load_golden(fixture_path)
    for name, case in meta["cases"].items():
        if name not in arrays:
            with pytest.raises(ConfigError):
                cosine_schedule(**case["args"])
