# SPDX-License-Identifier: Apache-2.0
"""What is drawn for a picture does not depend on who computes it."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.layers.draws import micro_batch
from beitv2_core.layers.drop_path import DropPath
from beitv2_core.layers.dropout import Dropout

LAYERS = {"drop path": DropPath(0.4), "dropout": Dropout(0.4), "channels": Dropout(0.4, whole_channels=True)}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_micro_batches_draw_what_the_whole_batch_draws(layer):
    x = paddle.ones([8, 5, 3, 2])
    paddle.seed(7)
    whole = [layer(x).numpy() for _ in range(2)]
    parts = []
    for number in range(4):
        paddle.seed(7)
        with micro_batch(number, 4):
            parts.append([layer(x[2 * number:2 * number + 2]).numpy() for _ in range(2)])
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in parts]), whole[i])
    assert 0.0 in whole[0] and not np.array_equal(*whole)


def test_in_one_process_the_draws_are_paddles():
    x = paddle.randn([6, 5, 3, 2])
    for layer, paddles in ((LAYERS["dropout"], F.dropout), (LAYERS["channels"], F.dropout2d)):
        paddle.seed(7)
        ours = layer(x).numpy()
        paddle.seed(7)
        np.testing.assert_allclose(ours, paddles(x, 0.4).numpy(), rtol=1e-6)


def test_channels_are_dropped_as_a_whole():
    kept = LAYERS["channels"](paddle.ones([6, 5, 3, 2])).numpy()
    assert set(np.unique(kept.sum((2, 3)).round(4))) == {0.0, 10.0}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_eval_mode_drops_nothing(layer):
    layer.eval()
    x = paddle.randn([3, 4, 2, 2])
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    layer.train()
