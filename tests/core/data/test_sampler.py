# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beitv2_core.data import ResumableSampler
from beitv2_core.errors import DataError


def take(sampler, count):
    return list(itertools.islice(sampler, count))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4))
def test_an_epoch_visits_every_image_at_most_once_and_drops_less_than_a_batch(length, batch, ranks):
    if length < batch * ranks:
        return
    seen = []
    for rank in range(ranks):
        sampler = ResumableSampler(length, batch_size=batch, rank=rank, world_size=ranks)
        for epoch, indices in take(sampler, sampler.steps_per_epoch):
            assert epoch == 0 and len(indices) == batch
            seen += indices
    assert len(set(seen)) == len(seen) > length - batch * ranks


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.integers(1, 2), st.sampled_from([2, 4]), st.integers(0, 20))
def test_several_ranks_together_see_what_one_with_the_larger_batch_sees(length, batch, ranks, steps):
    one = take(ResumableSampler(length, batch_size=batch * ranks, seed=3), steps)
    parts = [
        take(ResumableSampler(length, batch_size=batch, rank=rank, world_size=ranks, seed=3), steps)
        for rank in range(ranks)
    ]
    for number, (epoch, indices) in enumerate(one):
        assert {part[number][0] for part in parts} == {epoch}
        assert sorted(indices) == sorted(i for part in parts for i in part[number][1])


def updates(length, batch, ranks, accumulate, count):
    """The images of `count` updates in the order of their rows: (epoch, images)."""
    samplers = [ResumableSampler(length, batch_size=batch, rank=rank, world_size=ranks, accumulate=accumulate, seed=3)
                for rank in range(ranks)]
    dealt = [take(sampler, count * accumulate) for sampler in samplers]
    found = []
    for start in range(0, count * accumulate, accumulate):
        rows = [indices[i] for number in range(start, start + accumulate) for i in range(batch)
                for indices in (part[number][1] for part in dealt)]
        epochs = {part[number][0] for number in range(start, start + accumulate) for part in dealt}
        assert len(epochs) == 1, "an update stays inside an epoch"
        found.append((epochs.pop(), rows))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.sampled_from([(1, 1, 8), (2, 1, 4), (4, 2, 1), (1, 4, 2), (2, 4, 1), (2, 2, 2)]))
def test_an_update_is_made_of_the_same_images_whatever_processes_and_accumulation(length, factors):
    batch, ranks, accumulate = factors
    assert updates(length, batch, ranks, accumulate, 15) == updates(length, 8, 1, 1, 15)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.integers(0, 20), st.sampled_from([(1, 1, 8), (2, 1, 4), (4, 2, 1), (2, 2, 2)]))
def test_a_run_resumed_by_other_processes_sees_the_images_that_were_left(length, done, factors):
    batch, ranks, accumulate = factors
    first = ResumableSampler(length, batch_size=8, seed=3)
    take(first, done)
    state = json.loads(json.dumps(first.state()))
    samplers = [ResumableSampler(length, batch_size=batch, rank=rank, world_size=ranks, accumulate=accumulate, seed=3)
                for rank in range(ranks)]
    for sampler in samplers:
        sampler.load_state(state)
    for epoch, images in take(first, 10):
        dealt = [part for sampler in samplers for part in take(sampler, accumulate)]
        assert {part[0] for part in dealt} == {epoch}
        assert sorted(index for part in dealt for index in part[1]) == sorted(images)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 30))
def test_a_resumed_sampler_continues_where_the_other_stood(length, batch, steps):
    sampler = ResumableSampler(length, batch_size=batch, seed=1)
    take(sampler, steps)
    other = ResumableSampler(length, batch_size=batch, seed=1)
    other.load_state(json.loads(json.dumps(sampler.state())))
    assert take(other, 25) == take(sampler, 25)


def test_each_epoch_and_each_seed_has_its_own_order():
    samplers = [ResumableSampler(50, batch_size=5, seed=seed) for seed in (0, 1)]
    orders = [tuple(sampler.order(epoch)) for sampler in samplers for epoch in (0, 1)]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(50)) for order in orders)


def test_a_given_order_replaces_the_shuffle():
    sampler = ResumableSampler(5, batch_size=2, order=lambda seed, epoch: np.arange(5))
    assert take(sampler, 3) == [(0, [0, 1]), (0, [2, 3]), (1, [0, 1])]


def test_wrong_numbers_and_other_data_are_named():
    with pytest.raises(DataError, match="7 images do not fill one batch of 4 x 2"):
        ResumableSampler(7, batch_size=4, world_size=2)
    with pytest.raises(DataError, match="rank 2 of 2"):
        ResumableSampler(7, batch_size=1, rank=2, world_size=2)
    state = ResumableSampler(20, batch_size=4).state()
    with pytest.raises(DataError, match="20 images in the data set, now there are 21"):
        ResumableSampler(21, batch_size=4).load_state(state)
    with pytest.raises(DataError, match="7 images do not fill one batch of 2 x 2 processes x 2 accumulated"):
        ResumableSampler(7, batch_size=2, world_size=2, accumulate=2)
    with pytest.raises(DataError, match="4 images behind one update, now there are 5.*set train.total_batch=4"):
        ResumableSampler(20, batch_size=5).load_state(state)
    with pytest.raises(DataError, match="given by batch, epoch; expected epoch, length"):
        ResumableSampler(20, batch_size=4).load_state({"epoch": 0, "batch": 3})
    with pytest.raises(DataError, match=r"Lower batch_size or give"):
        ResumableSampler(7, batch_size=8, batch_size_key="batch_size")
    with pytest.raises(DataError, match=r"set images_per_update=4, with"):
        ResumableSampler(20, batch_size=5, total_batch_key="images_per_update").load_state(state)
    ResumableSampler(20, batch_size=2, rank=1, world_size=2).load_state(state)  # the same total batch: fine
