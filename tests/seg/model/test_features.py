# SPDX-License-Identifier: Apache-2.0
"""Features of a segmenter's backbone by core's `load_model`."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from seg_runs import TINY

from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.data.views.transforms import normalise
from beitv2_core.inference.loaded import load_model
from beitv2_seg.assembly.models import build_model
from beitv2_seg.config import read_config_file


@pytest.fixture
def run(tmp_path):
    config = read_config_file("digit_scenes", opts=TINY)
    paddle.seed(0)
    weights = {key: value.numpy() for key, value in build_model(config, pretrained=False).state_dict().items()}
    CheckpointStore(tmp_path / "checkpoints").save(0, weights, {}, {}, config.resolved())
    return tmp_path


def test_a_segmenter_gives_the_tokens_of_its_backbone_at_any_size(run):
    model = load_model(run, image_size=(32, 64))
    images = np.random.RandomState(0).rand(2, 3, 32, 64).astype(np.float32)
    with paddle.no_grad():
        tokens, _ = model.model.backbone.forward_tokens(paddle.to_tensor(normalise(images)))
    np.testing.assert_array_equal(model.features(images, what="patches"), tokens[:, 1:].numpy())
    assert model.kind == "segmentation" and model.features(images).shape == (2, model.backbone.width)
