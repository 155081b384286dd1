# SPDX-License-Identifier: Apache-2.0
"""PaddleClas's own class with a converted file: the same logits where it computes the same model."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_cls.classifier import BEiTClassifier
from beitv2_cls.plugins.kind import CLASSIFIER
from beitv2_core.assembly.loaded_weights import identify_weights
from beitv2_core.conversion.convert import convert_file
from beitv2_core.weights.converted import write_converted
from beitv2_core.weights.reading.foreign import read_tensors


def test_its_class_gives_our_logits_of_a_class_token_classifier(tmp_path):
    models = pytest.importorskip("paddleclas.ppcls.arch.backbone.model_zoo.foundation_vit")
    ours = BEiTClassifier(num_classes=7, pooling="cls", image_size=32, width=24, depth=2, num_heads=2,
                          init_values=0.1, use_rel_pos_bias=True, head_scale=1.0)
    for parameter in ours.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    ours.eval()
    found = identify_weights({name: value.numpy() for name, value in ours.state_dict().items()}, origin="ours")
    write_converted(tmp_path / "ours.safetensors", found, CLASSIFIER)
    convert_file(tmp_path / "ours.safetensors", tmp_path / "x.pdparams", "paddleclas")
    theirs = models.VisionTransformer(model_name="BEiTv2_vit_base_patch16_224", img_size=32, patch_size=16,
                                      embed_dim=24, depth=2, num_heads=2, qkv_bias=True, epsilon=1e-6, class_num=7,
                                      conv_bias=True)
    theirs.eval()
    missing, unexpected = theirs.set_state_dict(
        {name: paddle.to_tensor(np.array(array)) for name, array in read_tensors(tmp_path / "x.pdparams")[0].items()})
    assert (missing, unexpected) == (["proj"], [])
    images = paddle.randn([2, 3, 32, 32])
    np.testing.assert_allclose(theirs(images).numpy(), ours(images).numpy(), atol=1e-5)


def test_a_pooled_classifier_is_written_with_a_warning(tmp_path, caplog):
    ours = BEiTClassifier(num_classes=7, image_size=32, width=24, depth=2, num_heads=2, init_values=0.1,
                          use_rel_pos_bias=True)
    found = identify_weights({name: value.numpy() for name, value in ours.state_dict().items()}, origin="ours")
    write_converted(tmp_path / "ours.safetensors", found, CLASSIFIER)
    with caplog.at_level("WARNING", logger="beitv2_core"):
        convert_file(tmp_path / "ours.safetensors", tmp_path / "x.pdparams", "paddleclas")
    assert "does not read head.fc_norm" in caplog.text
