# SPDX-License-Identifier: Apache-2.0
"""Who keeps what of a divided optimizer; several processes are in tests/e2e/test_scale.py."""

from __future__ import annotations

import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beitv2_core.config.sections import TrainConfig
from beitv2_core.engine.sharding import STAGES, assign_owners, shard_optimizer
from beitv2_core.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 8))
def test_every_parameter_has_one_owner_and_no_owner_has_much_more_than_its_share(sizes, processes):
    named = {f"p{i}": size for i, size in enumerate(sizes)}
    owners = assign_owners(named, processes)
    assert list(owners) == list(named) and set(owners.values()) <= set(range(processes))
    loads = [sum(named[name] for name, owner in owners.items() if owner == rank) for rank in range(processes)]
    assert max(loads) <= sum(sizes) / processes + max(sizes)


def test_the_owners_do_not_depend_on_the_order_of_the_names():
    named = {f"p{i}": 10 + i % 3 for i in range(20)}
    assert assign_owners(named, 3) == assign_owners(dict(reversed(list(named.items()))), 3)


def test_one_process_and_off_change_nothing():
    model = paddle.nn.Linear(2, 2)
    optimizer = paddle.optimizer.SGD(parameters=model.parameters())
    for stage in STAGES:
        assert shard_optimizer(optimizer, model, stage) is optimizer


def test_what_cannot_be_is_named():
    model = paddle.nn.Linear(2, 2)
    optimizer = paddle.optimizer.SGD(parameters=model.parameters())
    with pytest.raises(ConfigError, match="train.sharding: 'stage3' is not known. Known: off, stage1, stage2"):
        shard_optimizer(optimizer, model, "stage3")
    with pytest.raises(ConfigError, match="run.sharding: stage2 with fp16.*Use bf16, or run.sharding=stage1"):
        shard_optimizer(optimizer, model, "stage2", "fp16", key="run.sharding")
    clipping = paddle.optimizer.SGD(parameters=model.parameters(), grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0))
    assert shard_optimizer(clipping, model, "off") is clipping
    with pytest.raises(ConfigError, match="train.sharding: stage1 with an optimizer that clips.*train.sharding=off"):
        shard_optimizer(clipping, model, "stage1")
    settings = TrainConfig(batch_size=1, sharding=False, amp=False)
    assert (settings.sharding, settings.amp) == ("off", "off"), "YAML 1.1 reads a bare off as false"
