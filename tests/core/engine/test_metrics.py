# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from beitv2_core.engine.metrics import perplexity


def test_perplexity_counts_equally_used_codes():
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert perplexity(np.array([7, 0])) == pytest.approx(1)
    assert perplexity(np.zeros(4, int)) == 0
