# SPDX-License-Identifier: Apache-2.0
"""Kinds, origins and architectures are recognised from names and shapes; what cannot be recognised says why."""

from __future__ import annotations

import numpy as np
import pytest
from model_files import missing, models

from beitv2_core.assembly.from_architecture import build_described, shapes_of
from beitv2_core.assembly.kinds import find_kind, known_kinds
from beitv2_core.assembly.loaded_weights import Hints, identify_weights
from beitv2_core.errors import CheckpointError
from beitv2_core.rel_pos_index import relative_position_index, table_rows, window_of
from beitv2_core.weights.formats import to_format


def recognised(model):
    return identify_weights(model.state, model.hints)


@pytest.fixture
def classifier(goldens_dir):
    if missing("classifier"):
        pytest.skip(missing("classifier"))
    return next(m for m in models(goldens_dir) if m.kind == "classifier" and any("table" in name for name in m.state))


def test_every_kind_is_recognised_and_its_model_has_those_tensors(model):
    found = recognised(model)
    assert (found.kind, found.origin, found.prefix) == (model.kind, "official", "")
    state = build_described(found.kind, found.architecture, "file").state_dict()
    listed = shapes_of(find_kind(found.kind), found.architecture)
    assert {name: tuple(value.shape) for name, value in state.items()} == listed
    assert {name: array.shape for name, array in found.weights.items()} == listed


def test_every_format_is_told_apart(model):
    found = recognised(model)
    for target in find_kind(model.kind).formats:
        try:
            state = to_format(target, find_kind(found.kind), found.weights, found.architecture)
        except CheckpointError:
            continue
        again = identify_weights(state, model.hints)
        indexed = any("table" in name for name in found.weights)  # without tables timm's names are the official ones
        assert again.origin == (target if target != "timm" or indexed else "official")
        assert again.kind == model.kind
        assert not again.unmapped and not again.missing_in_source


def test_a_prefix_before_every_name_comes_back(classifier):
    found = identify_weights({f"module.{name}": array for name, array in classifier.state.items()})
    assert (found.kind, found.prefix) == ("classifier", "module.")
    assert all(name.startswith("module.") for name in found.unmapped)


def test_a_file_of_nothing_we_know_says_what_was_looked_for():
    with pytest.raises(CheckpointError) as caught:
        identify_weights({"layer1.0.conv1.weight": np.zeros((4, 3, 3, 3), "f4"), "fc.weight": np.zeros((2, 4), "f4")})
    message = str(caught.value)
    assert "layer1.0.conv1.weight" in message and "Found 2 tensors" in message
    assert all(kind in message for kind in known_kinds())


def test_a_file_of_two_kinds_names_both(classifier):
    width = classifier.state["cls_token"].shape[-1]
    both = {**classifier.state, "lm_head.weight": np.zeros((7, width), "f4"), "lm_head.bias": np.zeros(7, "f4"),
            "mask_token": np.zeros((1, 1, width), "f4")}
    with pytest.raises(CheckpointError, match="could be pretraining or classifier"):
        identify_weights(both)


@pytest.mark.parametrize(("name", "message"), [
    ("blocks.1.norm2.weight", "missing: blocks.1.norm2.weight"),
    ("patch_embed.proj.bias", "missing: patch_embed.proj.bias"),
    ("head.bias", "head.bias is missing"),
])
def test_a_missing_tensor_is_named(classifier, name, message):
    with pytest.raises(CheckpointError, match=message):
        identify_weights({key: array for key, array in classifier.state.items() if key != name})


def test_a_missing_block_is_named(classifier):
    state = {key: array for key, array in classifier.state.items() if not key.startswith("blocks.1.")}
    with pytest.raises(CheckpointError, match=r"blocks\.1 is missing, blocks\.2 is there"):
        identify_weights(state)


def test_a_tensor_of_another_shape_is_named(classifier):
    with pytest.raises(CheckpointError, match=r"of another shape: blocks.0.norm1.bias \(5,\) instead of"):
        identify_weights({**classifier.state, "blocks.0.norm1.bias": np.zeros(5, "f4")})


def test_two_layouts_in_one_file_are_refused(classifier):
    name = "blocks.0.mlp.fc1.weight"
    with pytest.raises(CheckpointError, match=r"some linear weights are \(out, in\)"):
        identify_weights({**classifier.state, name: classifier.state[name].T})


def test_tensors_beside_the_model_do_not_reach_a_loader(goldens_dir):
    tokenizer = next(m for m in models(goldens_dir) if m.kind == "tokenizer")
    beside = {"teacher_model.norm.weight": np.ones(3, "f4"), "scaling_layer.shift": np.ones(3, "f4")}
    found = identify_weights({**tokenizer.state, **beside}, tokenizer.hints)
    assert set(found.weights) == set(recognised(tokenizer).weights) and not found.extra


@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (6, 2), (1, 1), (3, 14)])
def test_a_window_is_found_from_its_table_and_index(grid):
    assert window_of(table_rows(grid), relative_position_index(grid)) == grid
    assert window_of(table_rows(grid)) == (grid if grid[0] == grid[1] else None)


def test_a_window_that_cannot_be_told_is_asked_for(classifier):
    rows, patch = table_rows((2, 6)), classifier.state["patch_embed.proj.weight"].shape[-1]
    state = {name: (np.zeros((rows, array.shape[1]), "f4") if name.endswith("table") else array)
             for name, array in classifier.state.items() if not name.endswith("index")}
    with pytest.raises(CheckpointError, match="--source-size"):
        identify_weights(state)
    assert identify_weights(state, Hints(size=(2 * patch, 6 * patch))).kind == "classifier"
    with pytest.raises(CheckpointError, match="which a grid of 3 x 4 patches does not give"):
        identify_weights(state, Hints(size=(3 * patch, 4 * patch)))
