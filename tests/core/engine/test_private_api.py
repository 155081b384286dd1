# SPDX-License-Identifier: Apache-2.0
"""What this code uses of Paddle and Python without their promise, one test each: a new version says what it lacks."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import paddle
import pytest
from paddle import nn

from beitv2_core.engine.optim import (
    build_optimizer,
    forget_moments,
    load_optimizer_state,
    optimizer_state,
    set_weight_decay,
)
from beitv2_core.layers.fast.layer_norm import LayerNorm
from beitv2_core.layers.fast.linear import as_written


def stepped(kind="adamw"):
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(kind, model, lr=0.1, weight_decay=0.1)
    model(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    return model, optimizer


def test_parameters_tell_when_their_gradient_is_there():
    """`_register_backward_hook`: stage 2 of sharding sends a gradient to its owner from there."""
    model, called = nn.Linear(3, 2), []
    assert hasattr(model.weight, "_register_backward_hook"), "engine/sharding.py needs another way to see gradients"
    model.weight._register_backward_hook(lambda *_: called.append(model.weight.grad is not None))
    model(paddle.ones([1, 3])).sum().backward()
    assert called == [True]


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_optimizers_have_groups_whose_weight_decay_can_be_changed(kind):
    """`_param_groups`: the schedule of the weight decay."""
    model, optimizer = stepped(kind)
    assert hasattr(optimizer, "_param_groups"), "engine/optim.py: set_weight_decay needs another way to the groups"
    before = model.weight.numpy()
    results = []
    for decay in (0.0, 5.0):
        other = build_optimizer(kind, model, lr=0.1, weight_decay=0.1)
        model.weight.set_value(before)
        set_weight_decay(other, decay)
        for scale in (1.0, 0.2):  # Adam's first step does not depend on the size of a gradient
            (scale * model(paddle.ones([1, 3]))).sum().backward()
            other.step()
            other.clear_grad()
        results.append(model.weight.numpy())
    assert not np.array_equal(*results)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_an_optimizers_state_is_read_and_made_before_its_first_step(kind):
    """`_accumulators`, `_create_accumulators`, `helper`: the state of a checkpoint, by the names of the model."""
    model, optimizer = stepped(kind)
    assert hasattr(optimizer, "_accumulators"), "engine/optim.py: optimizer_state needs another way to the moments"
    state = optimizer_state(optimizer, model)
    assert any(key.endswith("/weight") and value.any() for key, value in state.items())
    fresh = build_optimizer(kind, model, lr=0.1, weight_decay=0.1)
    assert hasattr(fresh, "_create_accumulators"), "engine/optim.py: load_optimizer_state cannot make the moments"
    load_optimizer_state(fresh, model, state)
    again = optimizer_state(fresh, model)
    assert set(again) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value)


def test_tensors_saved_for_the_backward_pass_can_be_counted():
    """`paddle.autograd.saved_tensors_hooks`: the memory a dry run tells."""
    assert hasattr(paddle.autograd, "saved_tensors_hooks"), "dry_run.py: saved_for_backward"
    saved, weight = [], paddle.ones([3])
    weight.stop_gradient = False
    with paddle.autograd.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        (weight * paddle.full([3], 2.0)).exp()
    assert saved


def test_layers_tell_their_hooks_and_settings():
    """`_forward_pre_hooks`, `_forward_post_hooks`, `_original_funcs`, `_approximate`, `_epsilon`: what blocks ask."""
    layer = nn.GELU()
    assert as_written(layer, nn.GELU) and layer._original_funcs == {}
    assert (layer._approximate, nn.GELU(approximate=True)._approximate) == (False, True)
    assert LayerNorm(4, epsilon=1e-3)._epsilon == 1e-3
    for register in (layer.register_forward_pre_hook, layer.register_forward_post_hook):
        hook = register(lambda *_: None)
        assert not as_written(layer, nn.GELU), "layers/fast/linear.py: as_written does not see hooks"
        hook.remove()


def test_a_pool_of_processes_tells_its_workers_and_its_queue():
    """`_processes`, `_result_queue._writer` of concurrent.futures: data/loader.py notices workers that died."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(abs, -1).result(timeout=60) == 1
        assert [process.is_alive() for process in pool._processes.values()] == [True]
        assert callable(pool._result_queue._writer.close)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_an_optimizer_forgets_its_moments_and_starts_as_a_new_one(kind):
    """`_already_create_accumulator` (2.6: `...ater`): a run goes back to where it began."""
    model, optimizer = stepped(kind)
    optimizer.clear_grad()
    start = {name: value.numpy() for name, value in model.state_dict().items()}
    results = []
    for one in (build_optimizer(kind, model, lr=0.1, weight_decay=0.1), optimizer):
        if one is optimizer:
            forget_moments(one)
        model.set_state_dict({name: paddle.to_tensor(value) for name, value in start.items()})
        model(paddle.ones([1, 3])).sum().backward()
        one.step()
        one.clear_grad()
        results.append({**optimizer_state(one, model), "weight": model.weight.numpy()})
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name], err_msg=name)
