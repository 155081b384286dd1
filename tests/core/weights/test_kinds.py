# SPDX-License-Identifier: Apache-2.0
"""Kinds, origins and architectures are recognised from names and shapes; what cannot be recognised says why."""

from __future__ import annotations

import numpy as np
import pytest
from model_files import models

from beitv2_core.assembly.from_architecture import build_described
from beitv2_core.errors import CheckpointError
from beitv2_core.rel_pos_index import relative_position_index, table_rows, window_of
from beitv2_core.weights.architecture import default_taps
from beitv2_core.weights.formats import FORMATS, to_format
from beitv2_core.weights.kinds import KINDS, recognise
from beitv2_core.weights.shapes import shapes_of


def recognised(model):
    return recognise(model.state, num_heads=model.hints.num_heads, early_layers=model.hints.early_layers)


@pytest.fixture
def classifier(goldens_dir):
    return next(m for m in models(goldens_dir) if m.kind == "classifier" and any("table" in name for name in m.state))


def test_every_kind_is_recognised_and_its_model_has_those_tensors(model):
    found = recognised(model)
    assert (found.kind, found.origin, found.prefix) == (model.kind, "official", "")
    state = build_described(found.kind, found.architecture).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == shapes_of(found.kind, found.architecture)
    assert {name: array.shape for name, array in found.weights.items()} == shapes_of(found.kind, found.architecture)


def test_every_format_is_told_apart(model):
    found = recognised(model)
    for target in FORMATS[model.kind]:
        try:
            state = to_format(target, found.kind, found.weights, found.architecture)
        except CheckpointError:
            continue
        again = recognise(state, num_heads=model.hints.num_heads, early_layers=model.hints.early_layers)
        indexed = any("table" in name for name in found.weights)  # without tables timm's names are the official ones
        assert again.origin == (target if target != "timm" or indexed else "official")
        assert again.kind == model.kind
        assert not again.kept and not again.absent


def test_a_prefix_before_every_name_comes_back(classifier):
    found = recognise({f"module.{name}": array for name, array in classifier.state.items()})
    assert (found.kind, found.prefix) == ("classifier", "module.")
    assert all(name.startswith("module.") for name in found.kept)


def test_a_file_of_nothing_we_know_says_what_was_looked_for():
    with pytest.raises(CheckpointError) as caught:
        recognise({"layer1.0.conv1.weight": np.zeros((4, 3, 3, 3), "f4"), "fc.weight": np.zeros((2, 4), "f4")})
    message = str(caught.value)
    assert "layer1.0.conv1.weight" in message and "Found 2 tensors" in message
    assert all(kind in message for kind in KINDS)


def test_a_file_of_two_kinds_names_both(classifier):
    width = classifier.state["cls_token"].shape[-1]
    both = {**classifier.state, "lm_head.weight": np.zeros((7, width), "f4"), "lm_head.bias": np.zeros(7, "f4"),
            "mask_token": np.zeros((1, 1, width), "f4")}
    with pytest.raises(CheckpointError, match="could be pretraining or classifier"):
        recognise(both)


@pytest.mark.parametrize(("name", "message"), [
    ("blocks.1.norm2.weight", "missing: blocks.1.norm2.weight"),
    ("patch_embed.proj.bias", "missing: patch_embed.proj.bias"),
    ("head.bias", "head.bias is missing"),
])
def test_a_missing_tensor_is_named(classifier, name, message):
    with pytest.raises(CheckpointError, match=message):
        recognise({key: array for key, array in classifier.state.items() if key != name})


def test_a_missing_block_is_named(classifier):
    state = {key: array for key, array in classifier.state.items() if not key.startswith("blocks.1.")}
    with pytest.raises(CheckpointError, match=r"blocks\.1 is missing, blocks\.2 is there"):
        recognise(state)


def test_a_tensor_of_another_shape_is_named(classifier):
    with pytest.raises(CheckpointError, match=r"of another shape: blocks.0.norm1.bias \(5,\) instead of"):
        recognise({**classifier.state, "blocks.0.norm1.bias": np.zeros(5, "f4")})


def test_two_layouts_in_one_file_are_refused(classifier):
    name = "blocks.0.mlp.fc1.weight"
    with pytest.raises(CheckpointError, match=r"some linear weights are \(out, in\)"):
        recognise({**classifier.state, name: classifier.state[name].T})


def test_tensors_beside_the_model_do_not_reach_a_loader(goldens_dir):
    tokenizer = next(m for m in models(goldens_dir) if m.kind == "tokenizer")
    beside = {"teacher_model.norm.weight": np.ones(3, "f4"), "scaling_layer.shift": np.ones(3, "f4")}
    found = recognise({**tokenizer.state, **beside}, num_heads=tokenizer.hints.num_heads)
    assert set(found.weights) == set(recognised(tokenizer).weights) and not found.extra


@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (6, 2), (1, 1), (3, 14)])
def test_a_window_is_found_from_its_table_and_index(grid):
    assert window_of(table_rows(grid), relative_position_index(grid)) == grid
    assert window_of(table_rows(grid)) == (grid if grid[0] == grid[1] else None)


def test_a_window_that_cannot_be_told_is_asked_for(classifier):
    rows = table_rows((2, 6))
    state = {name: (np.zeros((rows, array.shape[1]), "f4") if name.endswith("table") else array)
             for name, array in classifier.state.items() if not name.endswith("index")}
    with pytest.raises(CheckpointError, match="--source-size"):
        recognise(state)
    assert recognise(state, grid=(2, 6)).kind == "classifier"
    with pytest.raises(CheckpointError, match="which a grid of 3 x 4 patches does not give"):
        recognise(state, grid=(3, 4))


@pytest.mark.parametrize("depth, taps", [(1, (0, 0, 0, 0)), (2, (0, 0, 1, 1)), (3, (0, 1, 2, 2)), (4, (0, 1, 2, 3)),
                                         (6, (0, 2, 3, 5)), (12, (2, 5, 8, 11))])
def test_taps_that_nobody_gave_are_blocks_the_trunk_has(depth, taps):
    assert default_taps(None, depth) == taps
