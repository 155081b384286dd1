# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np

from beitv2_core.data import SampleRng
from beitv2_core.data.rng import derive_seed


def test_a_samples_generators_depend_on_seed_epoch_and_index_alone():
    draws = {}
    for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 11, 1), (0, 1, 11)]:
        a, b = SampleRng.for_sample(*key), SampleRng.for_sample(*key)
        assert a.numpy.rand() == b.numpy.rand()  # in another order than python's: the two do not disturb each other
        assert a.python.random() == b.python.random()
        draws[key] = (SampleRng.for_sample(*key).python.random(), SampleRng.for_sample(*key).numpy.rand())
    assert len({d[0] for d in draws.values()}) == len({d[1] for d in draws.values()}) == 6


def test_from_seed_equals_the_global_generators_after_seeding():
    rng = SampleRng.from_seed(9)
    assert rng.python.random() == random.Random(9).random()
    assert rng.numpy.rand() == np.random.RandomState(9).rand()


def test_given_generators_are_used_as_they_are():
    python, numpy = random.Random(1), np.random.RandomState(1)
    rng = SampleRng(python, numpy)
    assert rng.python is python and rng.numpy is numpy


def test_seeds_do_not_run_together():
    assert derive_seed(1, 23) != derive_seed(12, 3) and 0 <= derive_seed("x") < 2**64
