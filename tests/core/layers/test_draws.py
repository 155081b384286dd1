# SPDX-License-Identifier: Apache-2.0
"""What is drawn for an image does not depend on who computes it."""

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


def test_in_one_process_the_draws_of_channels_are_paddles():
    x = paddle.randn([6, 5, 3, 2])
    paddle.seed(7)
    ours = LAYERS["channels"](x).numpy()
    paddle.seed(7)
    np.testing.assert_allclose(ours, F.dropout2d(x, 0.4).numpy(), rtol=1e-6)


def test_dropout_zeroes_its_share_of_every_sample_and_rescales_the_rest():
    paddle.seed(7)
    kept = LAYERS["dropout"](paddle.ones([6, 50, 40])).numpy()
    assert set(np.unique(kept.round(5))) == {0.0, np.float32(1 / 0.6).round(5)}
    np.testing.assert_allclose((kept == 0).mean((1, 2)), 0.4, atol=0.04)  # 3.6 deviations of 2000 draws
    assert len({row.tobytes() for row in kept}) == 6, "every sample has draws of its own"


@pytest.mark.parametrize("count", [1, 4, 64])
def test_dropout_draws_for_the_own_samples_only(count, monkeypatch):
    drawn, original = [], F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, *rest, **more: drawn.append(x.size) or original(x, *rest, **more))
    with micro_batch(count - 1, count):
        LAYERS["dropout"](paddle.ones([3, 5, 4]))
    assert sum(drawn) == 3 * 5 * 4


def test_what_is_drawn_after_dropout_does_not_depend_on_the_number_of_samples():
    following = []
    for rows in (1, 8):
        paddle.seed(7)
        LAYERS["dropout"](paddle.ones([rows, 5]))
        following.append(paddle.rand([4]).numpy())
    np.testing.assert_array_equal(*following)


def test_recomputed_dropout_draws_the_same_again():
    from paddle.distributed.fleet.utils import recompute
    x = paddle.ones([4, 50])
    x.stop_gradient = False
    paddle.seed(7)
    out = recompute(LAYERS["dropout"], x)
    out.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), out.numpy())


def test_channels_are_dropped_as_a_whole():
    kept = LAYERS["channels"](paddle.ones([6, 5, 3, 2])).numpy()
    assert set(np.unique(kept.sum((2, 3)).round(4))) == {0.0, 10.0}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_eval_mode_drops_nothing(layer):
    layer.eval()
    x = paddle.randn([3, 4, 2, 2])
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    layer.train()
