# SPDX-License-Identifier: Apache-2.0
"""Features of fine-tuned models by core's `load_model`."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from cls_runs import CONFIG

from beitv2_cls.assembly import build_classifier, load_backbone
from beitv2_cls.config import FinetuneConfig
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import load_config
from beitv2_core.data.views.transforms import normalise
from beitv2_core.evaluation.evaluate import pooled_features
from beitv2_core.inference.loaded import load_model


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_pooled_feature_is_what_the_head_reads_in_every_command(tmp_path, pooling):
    settings = load_config(CONFIG, ["model.width=24", "pretrained.weights=null", f"model.pooling={pooling}",
                                    f"output={tmp_path}"], FinetuneConfig)
    paddle.seed(1)
    state = build_classifier(settings, 3).state_dict()
    weights = {key: value.numpy() + np.float32(0.1) for key, value in state.items()}
    CheckpointStore(tmp_path / "checkpoints").save(0, weights, {}, {"task": {"classes": ["a", "b", "c"]}},
                                                   settings.resolved())
    model, images = load_model(tmp_path), np.random.RandomState(0).rand(4, 3, 32, 32).astype(np.float32)
    assert model.kind == "classifier"
    found = model.features(images, what=pooling)
    with paddle.no_grad():
        np.testing.assert_array_equal(found, model.model.features(paddle.to_tensor(normalise(images))).numpy())
    measured, _ = pooled_features(load_backbone(str(tmp_path)).model, [(images, np.zeros(4))], pooling)
    np.testing.assert_array_equal(found, measured)
    raw = model.features(images, what=pooling, block=model.backbone.depth)
    assert not np.allclose(raw, found), "a block's output is raw"
