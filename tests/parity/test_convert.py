# SPDX-License-Identifier: Apache-2.0
"""Official weights through `beitv2 convert` compute what the official code recorded, position terms included."""

from __future__ import annotations

import numpy as np
import pytest
from golden_io import group, load_golden, note
from model_files import against_recorded

from beitv2_core.conversion.convert import convert_file, resize_model
from beitv2_core.weights.identify import IdentifiedWeights
from beitv2_core.weights.remap import SHARED, expand_shared_bias


def test_converted_weights_give_the_recorded_outputs(model, tmp_path):
    convert_file(model.write(tmp_path), tmp_path / "ours.safetensors", hints=model.hints)
    differences = against_recorded(tmp_path / "ours.safetensors", model)
    assert any("tensors" not in difference.name for difference in differences)
    for difference in differences:
        assert difference.holds, difference
        note("output", difference.largest / difference.limit if difference.limit else difference.largest)


def test_a_wrong_layer_norm_or_bias_does_not_pass(model, tmp_path):
    convert_file(model.write(tmp_path), tmp_path / "ours.safetensors", hints=model.hints)
    name = next(key for key in sorted(model.state) if key.endswith(("norm1.bias", "ln_1.bias")))
    changed = {**model.state, name: model.state[name] + np.float32(1e-2)}
    convert_file(model._replace(state=changed).write(tmp_path), tmp_path / "ours.safetensors", force=True,
                 hints=model.hints)
    differences = against_recorded(tmp_path / "ours.safetensors", model)
    failed = [difference.name for difference in differences if not difference.holds]
    assert any("tensors" in name for name in failed) and any("tensors" not in name for name in failed)


@pytest.fixture
def recorded_sizes(goldens_dir):
    path = goldens_dir / "checkpoint_interp.json"
    if not path.exists():
        pytest.skip(f"{goldens_dir} holds no checkpoint_interp")
    return load_golden(path)


def test_resizing_a_model_equals_the_recorded_loader(recorded_sizes):
    arrays, meta = recorded_sizes
    compared = 0
    for key in meta["conversions"]:
        name, _, window = key.split("/")[1].rpartition("_to_")
        if not window.isdigit() or not name:  # about names only
            continue
        given = group(arrays, f"input/{name}")
        if name == "shared":
            given = expand_shared_bias({SHARED: given[SHARED]}, meta["config"]["depth"])
        weights = {entry: array for entry, array in given.items() if entry.endswith(("bias_table", "pos_embed"))}
        side = meta["config"]["src_window"] * 16
        found = IdentifiedWeights("backbone", "ours", weights, {"image_size": [side, side], "patch_size": [16, 16]})
        resized = resize_model(found, (int(window) * 16,) * 2)
        for entry, reference in group(arrays, key).items():
            if entry in weights:
                np.testing.assert_allclose(resized.weights[entry], reference, atol=1e-5, err_msg=f"{key} {entry}")
                compared += 1
    assert compared >= 4
