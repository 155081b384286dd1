# SPDX-License-Identifier: Apache-2.0
"""The model of a file is found whatever it was wrapped in, what was taken off is said, two models are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from model_files import missing, models

from beitv2_core.assembly.loaded_weights import Hints, identify_weights, read_checkpoint, read_model
from beitv2_core.errors import CheckpointError
from beitv2_core.weights.writers import write_paddle, write_torch

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
MODELS = {model.kind: model for model in models(GOLDENS) if not missing(model.kind)}
#: wrappers that people have: some are real parts of other kinds' names
WRAPPERS = ["module", "_orig_mod", "model", "encoder", "backbone", "student", "teacher", "net", "network", "trunk",
            "decoder", "visual", "ema", "0", "base_model"]
CONTAINERS = ["model", "state_dict", "module", "model_state", "network", "model_state_dict", "state_dict_ema",
              "model_ema", "student", "teacher", "weights", "ema", "params"]
BESIDE = {"epoch": 3, "args": {"lr": 1e-3, "size": (2, 3)}, "optimizer_states": [{"state": {}}],
          "n_averaged": np.ones(())}


def plain(model):
    return identify_weights(model.state, model.hints)


def one(kind):
    if missing(kind):
        pytest.skip(missing(kind))
    return MODELS[kind]


def assert_is(found, model):
    expected = plain(model)
    assert (found.kind, found.origin) == (model.kind, "official") and not found.extra
    assert set(found.weights) == set(expected.weights)
    for name, array in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name], array, err_msg=name)


@pytest.mark.parametrize("kind", MODELS)
@given(wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=4),
       containers=st.lists(st.sampled_from(CONTAINERS), max_size=3), optimizer=st.booleans())
@example(wrappers=["backbone"], containers=[], optimizer=True)
@example(wrappers=["encoder", "encoder"], containers=["model"], optimizer=False)
@example(wrappers=["module", "_orig_mod", "module"], containers=["state_dict_ema"], optimizer=True)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_nesting_of_wrappers_and_containers_is_taken_off(kind, wrappers, containers, optimizer):
    model = MODELS[kind]
    prefix = "".join(f"{part}." for part in wrappers)
    state = {prefix + name: array for name, array in model.state.items()}
    for key in reversed(containers):
        state = {key: state, **BESIDE}
        if optimizer:
            state.update(optimizer={"exp_avg": model.state}, lr_scheduler={"model": model.state})
    found = identify_weights(state, model.hints)
    assert_is(found, model)
    assert found.container == ".".join(containers)
    assert all(part in found.taken() for part in (*containers, *wrappers) if part != "visual")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_inside_the_names_are_taken_off(kind, wrapper):
    model = MODELS[kind]
    inside = {name.replace(".", f".{wrapper}.", 1): array for name, array in model.state.items()}
    assert_is(identify_weights(inside, model.hints), model)


def test_parts_that_were_saved_apart_are_put_together():
    model = one("segmentation")
    parts = {}
    for name, array in model.state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = array
    assert_is(identify_weights(parts, model.hints), model)


def shifted(model):
    return {name: array + 1 if array.dtype.kind == "f" else array for name, array in model.state.items()}


@pytest.mark.parametrize(("trained", "averaged"), [
    ("model", "model_ema"), ("state_dict", "state_dict_ema"), ("module", "ema"), ("network", "network_ema_1"),
    ("model", "teacher"), ("params", "params_ema")])
@pytest.mark.parametrize("flat", [False, True])
def test_trained_weights_are_taken_before_their_average_which_can_be_asked_for(trained, averaged, flat):
    model = one("classifier")
    state = {averaged: shifted(model), trained: model.state}
    if flat:  # of Lightning: both in one dictionary, by their beginnings
        state = {"state_dict": {f"{key}.{name}": array for key, part in state.items() for name, array in part.items()}}
    default, asked = identify_weights(state), identify_weights(state, Hints(ema=True))
    assert_is(default, model)
    assert_is(identify_weights(state, Hints(ema=False)), model)
    assert averaged in default.taken() and "not taken" in default.taken()
    name = "blocks.0.norm1.weight"
    np.testing.assert_array_equal(asked.weights[name], model.state[name] + 1)


def test_of_student_and_teacher_the_teacher_is_taken():
    model = one("classifier")
    state = {"student": shifted(model), "teacher": model.state, "epoch": 3}
    assert_is(identify_weights(state), model)
    assert_is(identify_weights({"student": model.state}), model)
    asked = identify_weights(state, Hints(ema=False))
    assert asked.container == "student"


def test_an_average_that_is_not_there_is_refused_with_what_is():
    model = one("classifier")
    with pytest.raises(CheckpointError, match="no averaged weights.*'model'"):
        identify_weights({"model": model.state}, Hints(ema=True))
    with pytest.raises(CheckpointError, match="'model_ema'"):
        identify_weights({"model_ema": model.state}, Hints(ema=False))


def test_two_models_of_equal_rights_are_named_and_two_copies_of_one_are_one():
    model = one("classifier")
    with pytest.raises(CheckpointError, match="holds 2 models: .*'a' .*'b' "):
        identify_weights({"a": model.state, "b": shifted(model)})
    copy = {name: array.copy() for name, array in model.state.items()}
    assert_is(identify_weights({"a": model.state, "b": copy}), model)


def test_a_part_of_another_model_is_no_model():
    assert identify_weights(MODELS["tokenizer"].state, MODELS["tokenizer"].hints).kind == "tokenizer"
    segmenter = one("segmentation").state
    trunk = {name: array for name, array in segmenter.items() if name.startswith("backbone.")
             and not name.startswith("backbone.fpn")}
    other_head = {**trunk, "decode_head.conv_seg.weight": segmenter["decode_head.conv_seg.weight"]}
    found = identify_weights(other_head)
    assert (found.kind, found.prefix) == ("backbone", "backbone.")


def test_a_tensor_between_the_models_that_it_does_not_know_reaches_the_strict_loader():
    model = one("classifier")
    extra = {"blocks.0.adapter.weight": np.ones((3, 3), "f4")}
    assert set(identify_weights({**model.state, **extra}).extra) == set(extra)
    wrapped = {f"module.{name}": array for name, array in {**model.state, **extra}.items()}
    assert set(identify_weights({**wrapped, "criterion.weight": np.ones(3, "f4")}).extra) == set(extra)


def test_a_file_of_many_models_is_refused_before_it_costs_time():
    with pytest.raises(CheckpointError, match="more than 64"):
        identify_weights({f"m{i}.cls_token": np.zeros((1, 1, 2), "f4") for i in range(50_000)})


def test_dictionaries_that_stand_for_any_number_cost_nothing():
    shared: dict = {"w": np.ones(1, "f4")}
    for _ in range(60):
        shared = {"a": shared, "b": shared}
    with pytest.raises(CheckpointError, match="no kind of model was recognised"):
        identify_weights(shared)


@pytest.mark.parametrize("name", ["weights.pth", "last.ckpt", "model_best.pth.tar", "weights.pdparams"])
def test_the_log_says_in_one_line_what_was_taken_off(tmp_path, caplog, name):
    caplog.set_level("INFO", "beitv2_core")
    model = one("classifier")
    state = {f"module._orig_mod.{key}": array for key, array in model.state.items()}
    path = tmp_path / name
    if name.endswith("pdparams"):
        write_paddle(path, state)
    else:
        write_torch(path, state, "state_dict")
    found = read_checkpoint(str(path))
    assert_is(found.model, model)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and str(path) in said[0] and "module._orig_mod." in said[0] and "classifier" in said[0]
    assert ("'state_dict'" in said[0]) == (not name.endswith("pdparams"))


def test_names_that_fit_nothing_are_listed_and_nothing_else_is_blamed(tmp_path):
    write_torch(tmp_path / "resnet.pth", {"layer1.0.conv1.weight": np.zeros((4, 3, 3, 3), "f4")}, "model")
    for read in (lambda: read_checkpoint(str(tmp_path / "resnet.pth")), lambda: read_model(tmp_path / "resnet.pth")):
        with pytest.raises(CheckpointError) as caught:
            read()
        message = str(caught.value)
        assert "resnet.pth" in message and "layer1.0.conv1.weight" in message and "cls_token" in message
        assert "width" not in message and "depth" not in message
