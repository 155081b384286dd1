# SPDX-License-Identifier: Apache-2.0
"""The arithmetic between images and updates."""

from __future__ import annotations

import pytest

from beitv2_core.assembly.batches import batches_per_update, fitting_batch_size, plan_batches
from beitv2_core.config.sections import SIZES, OptimConfig, TrainConfig
from beitv2_core.errors import ConfigError
from beitv2_core.models import backbone

IMAGENET = 1_281_167


def test_the_papers_tokenizer_run_has_the_published_rate_and_length():
    optim = OptimConfig(lr=5e-5, lr_batch=128, epochs=100, warmup_epochs=10)
    plan = plan_batches(optim, TrainConfig(batch_size=64, total_batch=512), IMAGENET, processes=8)
    assert (plan.accumulate, plan.steps_per_epoch, plan.total_steps) == (1, 2502, 250200)
    assert plan.lr == pytest.approx(5e-5 * 512 / 128)
    assert plan.warmup_steps == 25020


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 16), (2, 8), (16, 1)])
def test_accumulation_makes_up_for_missing_processes(processes, accumulate):
    optim = OptimConfig(lr=1.5e-3, epochs=300)
    plan = plan_batches(optim, TrainConfig(batch_size=128, total_batch=2048), IMAGENET, processes)
    assert (plan.accumulate, plan.total_batch, plan.steps_per_epoch) == (accumulate, 2048, 625)
    assert plan.lr == 1.5e-3


def test_a_total_batch_that_does_not_divide_names_the_numbers():
    with pytest.raises(ConfigError, match=r"total_batch: 100 is not a multiple of 32 images x 2 process\(es\) = 64"):
        plan_batches(OptimConfig(lr=1, steps=1), TrainConfig(batch_size=32, total_batch=100), 1000, 2)


def test_fewer_images_than_one_update_is_an_error():
    with pytest.raises(ConfigError, match="64 images behind one update, but the data has 63"):
        plan_batches(OptimConfig(lr=1, steps=1), TrainConfig(batch_size=64), 63, 1)


def test_a_warm_up_longer_than_the_run_is_an_error():
    optim = OptimConfig(lr=1, steps=10, warmup_epochs=2)
    with pytest.raises(ConfigError, match=r"warm-up of 20 steps \(10 steps per epoch\) is longer than the run of 10"):
        plan_batches(optim, TrainConfig(batch_size=10), 100, 1)


def test_the_lines_show_where_the_rate_comes_from():
    optim = OptimConfig(lr=5e-5, lr_batch=128, steps=5)
    lines = plan_batches(optim, TrainConfig(batch_size=4, total_batch=8), 100, 1).lines(optim)
    assert "total batch: 8 = 4 images x 1 process(es) x 2 accumulated" in lines
    assert any("3.125e-06 = 5e-05 x 8 / 128" in line for line in lines)


def test_the_named_sizes_are_those_of_the_backbone():
    for name, (width, depth, num_heads) in SIZES.items():
        size = backbone.SIZES[name]
        assert (width, depth, num_heads) == (size["width"], size["depth"], size["num_heads"])
    assert set(SIZES) == set(backbone.SIZES)


@pytest.mark.parametrize(("total", "batch", "processes", "size"), [(2048, 128, 16, 128), (2048, 128, 8, 128),
                                                                   (96, 16, 4, 12), (24, 16, 2, 12), (6, 4, 2, 3)])
def test_where_hosts_may_go_the_batch_size_divides_the_total_batch(monkeypatch, total, batch, processes, size):
    train = TrainConfig(batch_size=batch, total_batch=total)
    assert fitting_batch_size(train, processes) == batch  # of a fixed number of processes it is the user's
    monkeypatch.setenv("BEITV2_LAUNCH_HOSTS", "2")
    assert fitting_batch_size(train, processes) == size
    assert batches_per_update(TrainConfig(batch_size=size, total_batch=total), processes) * size * processes == total


@pytest.mark.parametrize(("total", "said"), [(None, "train.total_batch: not set.*e.g. to 64"),
                                             (2049, "2049 images are not divided by 4 processes")])
def test_where_hosts_may_go_the_total_batch_must_be_set_and_divided(monkeypatch, total, said):
    monkeypatch.setenv("BEITV2_LAUNCH_HOSTS", "2")
    with pytest.raises(ConfigError, match=said):
        fitting_batch_size(TrainConfig(batch_size=16, total_batch=total), 4)
