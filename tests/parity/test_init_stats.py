# SPDX-License-Identifier: Apache-2.0
"""Freshly built models have the official initialisation: mean, spread and largest value of every parameter."""

from __future__ import annotations

import math
import re

import numpy as np
import paddle
import pytest
from golden_io import load_golden

from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.weights.keymaps.official import from_official

SUBJECT = "init_stats"


def build(name: str):
    if name == "pretrain_base":
        return BEiTForMaskedImageModeling(early_layers=9, head_layers=2, init_values=0.1, use_shared_rel_pos_bias=True)
    if name == "finetune_base":
        return BEiTBackbone(init_values=0.1, use_rel_pos_bias=True, norm="pool")
    if name == "vqkd_base":
        from beitv2_core.models.vqkd import build_published
        return build_published("vqkd_encoder_base_decoder_3x768x12_clip")
    raise AssertionError(f"init_stats names a model this test does not know: {name}")


@pytest.mark.parametrize("name", ["pretrain_base", "finetune_base", "vqkd_base"])
def test_every_parameter_starts_with_the_official_statistics(fixture_path, name):
    meta = load_golden(fixture_path)[1]
    if name not in meta["models"]:
        pytest.skip(f"{fixture_path.name} holds no {name}")
    paddle.seed(1)
    model = build(name)
    ours = {key: value.numpy() for key, value in model.state_dict().items()}
    # from_official only needs names here; 0-d arrays keep layouts out of it.
    reference = {key: value for key, value in meta["models"][name].items() if not key.startswith("head.")}
    renamed = dict(zip(from_official({key: np.zeros(()) for key in reference}), (
        value for key, value in reference.items() if key in
        {k for k in reference if from_official({k: np.zeros(())})})))
    for key, (mean, std, largest, numel) in renamed.items():
        if re.search(r"quantize\.(codebook|cluster_size|initted)", key) and key not in ours:
            continue
        array = ours[key].astype(np.float64)
        assert array.size == numel, key
        if largest > 8 * std > 0:
            # The official float32 draw rounded to 1, whose inverse is clipped to the limit: leave that one value out.
            std, largest = math.sqrt(max(std ** 2 - largest ** 2 / numel, 0.0)), 0.0
        # Five standard errors of each figure: both sides are one draw.
        error = 5 * max(std, 1e-12) / math.sqrt(numel) * 1.5 + 1e-6
        assert abs(array.mean() - mean) < 2 * error, f"{key}: mean {array.mean():.3g}, official {mean:.3g}"
        assert abs(array.std() - std) <= 5 * std / math.sqrt(numel) + 1e-6, f"{key}: std {array.std()} official {std}"
        if largest and numel > 10_000:
            assert abs(np.abs(array).max() / largest - 1) < 0.25, f"{key}: largest {np.abs(array).max()}, {largest}"
