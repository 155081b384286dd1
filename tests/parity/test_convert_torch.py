# SPDX-License-Identifier: Apache-2.0
"""The published base classifier, random weights, in transformers' and timm's own classes: the same logits as ours.

Skipped where they are not installed; `make test-peers` has them.
"""

from __future__ import annotations

import numpy as np
import pytest
from full_size import random_state
from golden_io import golden_files, load_golden

from beitv2_core.conversion.convert import convert_file, read_model
from beitv2_core.conversion.verify import build, fixed_inputs, outputs_of, verify_file
from beitv2_core.weights.writers import write_torch

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make test-peers`")
pytestmark = [pytest.mark.slow, pytest.mark.peers, pytest.mark.usefixtures("importable_torchvision")]
LIMIT = 1e-4


@pytest.fixture(scope="module")
def converted(request, tmp_path_factory):
    """Folder with the official file and ours, the images and our logits."""
    folder = tmp_path_factory.mktemp("full")
    folder_of_goldens = request.config.getoption("--goldens")
    schemas = golden_files(folder_of_goldens, "schemas_main")
    if not schemas:
        pytest.skip(f"{folder_of_goldens} holds no schemas_main")
    schema = load_golden(schemas[0])[1]["models"]
    write_torch(folder / "official.pth", random_state(schema["beit_base_patch16_224"]["schema"]), "model")
    convert_file(folder / "official.pth", folder / "ours.safetensors")
    found = read_model(folder / "ours.safetensors")
    inputs = fixed_inputs(found)
    logits = outputs_of("classifier", build(found, "ours"), inputs)["logits"]
    assert np.abs(logits).max() > 0.1
    return folder, inputs[0], logits


def test_transformers_gives_our_logits(converted, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: `make test-peers`")
    folder, images, logits = converted
    convert_file(folder / "ours.safetensors", tmp_path / "hub", "huggingface")
    model, report = transformers.BeitForImageClassification.from_pretrained(
        tmp_path / "hub", local_files_only=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        got = model.eval()(torch.from_numpy(images)).logits.numpy()
    assert np.abs(got - logits).max() <= LIMIT
    convert_file(tmp_path / "hub", tmp_path / "again.safetensors")
    verdict = verify_file(tmp_path / "again.safetensors", tmp_path / "hub")
    assert verdict.holds and "transformers" in verdict.reference


def test_timm_gives_our_logits(converted, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed: `make test-peers`")
    from safetensors.torch import load_file

    folder, images, logits = converted
    convert_file(folder / "ours.safetensors", tmp_path / "timm.safetensors", "timm")
    model = timm.create_model("beitv2_base_patch16_224")
    model.load_state_dict(load_file(tmp_path / "timm.safetensors"), strict=True)
    with torch.no_grad():
        got = model.eval()(torch.from_numpy(images)).numpy()
    assert np.abs(got - logits).max() <= LIMIT
    verdict = verify_file(folder / "ours.safetensors", folder / "official.pth")
    assert verdict.holds and "timm" in verdict.reference
