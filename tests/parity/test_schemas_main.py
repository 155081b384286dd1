# SPDX-License-Identifier: Apache-2.0
"""Every released model has exactly the official parameters: names, shapes, count and drop-path rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from golden_io import load_golden

from beitv2_core.models.backbone import SIZES, BEiTBackbone
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.weights.keymaps.official import from_official

SUBJECT = "schemas_main"
MODELS = [
    "beit_base_patch16_224_8k_vocab_cls_pt", "beit_base_patch16_224_8k_vocab", "beit_base_patch16_224",
    "beit_base_patch16_384", "beit_large_patch16_224_8k_vocab_cls_pt", "beit_large_patch16_224_8k_vocab",
    "beit_large_patch16_224", "vqkd_encoder_base_decoder_1x768x12_clip", "vqkd_encoder_base_decoder_3x768x12_clip",
    "vqkd_encoder_base_decoder_1x768x12_dino",
]


def build(name: str):
    if name.startswith("vqkd"):
        from beitv2_core.models.vqkd import build_published
        return build_published(name)
    size = "large" if "large" in name else "base"
    common = {**SIZES[size], "init_values": 1e-5 if size == "large" else 0.1, "drop_path": 0.1}
    if "vocab" in name:
        early = (21 if size == "large" else 9) if name.endswith("cls_pt") else None
        return BEiTForMaskedImageModeling(early_layers=early, use_shared_rel_pos_bias=True, **common)
    return BEiTBackbone(image_size=int(name.rsplit("_", 1)[1]), use_rel_pos_bias=True, norm="pool", **common)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_equal_the_official_state_dict(fixture_path, name):
    schema = load_golden(fixture_path)[1]["models"].get(name)
    if schema is None:
        pytest.skip(f"{fixture_path.name} holds no {name}")
    model = build(name)
    # Broadcast views have the shapes without the memory.
    official = {key: np.broadcast_to(np.float32(0), shape) for key, shape in schema["schema"].items()}
    expected = {key: list(value.shape) for key, value in from_official(official).items()}
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    head = {key for key in expected if key.startswith("head.")}  # the classifier lives in beitv2-cls
    assert ours == {key: shape for key, shape in expected.items() if key not in head}
    trainable = sum(math.prod(p.shape) for p in model.parameters() if not p.stop_gradient)
    assert trainable + sum(math.prod(expected[key]) for key in head) == schema["trainable_params"]
    if schema["drop_path"]:
        assert [b.drop_path.rate for b in model.blocks] == pytest.approx(schema["drop_path"]["blocks"], abs=1e-7)
        for ours_block, rate in zip(getattr(model, "cls_pt_layers", []), schema["drop_path"].get("cls_pt_layers", [])):
            assert ours_block.drop_path.rate == pytest.approx(rate, abs=1e-7)
