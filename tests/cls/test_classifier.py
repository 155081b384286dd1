# SPDX-License-Identifier: Apache-2.0
"""The classifier's head, its loading from pretraining, and the names of what does not fit."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beitv2_cls.classifier import BEiTClassifier
from beitv2_core.assembly.transfer import transfer_trunk
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_core.models.mim import BEiTForMaskedImageModeling

SMALL = dict(width=12, depth=2, num_heads=2, patch_size=4)


def classifier(size=16, **changes) -> BEiTClassifier:
    return BEiTClassifier(**{"num_classes": 5, "image_size": size, "use_rel_pos_bias": True, **SMALL, **changes})


def pretrained(**changes) -> dict[str, np.ndarray]:
    model = BEiTForMaskedImageModeling(image_size=16, num_codes=7, early_layers=1, head_layers=1,
                                       use_shared_rel_pos_bias=True, **{**SMALL, **changes})
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_the_fresh_head_is_scaled_down():
    head = classifier(width=96, num_classes=50).head
    assert 0 < float(head.weight.abs().max()) < 0.001
    assert float(head.bias.abs().max()) == 0


def test_a_pretrained_trunk_gives_its_tokens_and_its_shared_bias_to_every_block():
    weights, model = pretrained(), classifier()
    fresh = transfer_trunk(model, weights, "run", source_grid=(4, 4))
    assert fresh == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    source = BEiTForMaskedImageModeling(image_size=16, num_codes=7, early_layers=1, head_layers=1,
                                        use_shared_rel_pos_bias=True, **SMALL)
    source.set_state_dict({name: paddle.to_tensor(value) for name, value in weights.items()})
    source.eval()
    model.eval()
    images = paddle.randn([2, 3, 16, 16])
    np.testing.assert_allclose(model.forward_tokens(images)[0].numpy(), source.forward_tokens(images)[0].numpy(),
                               atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [24, 32, (16, 24)])
def test_the_bias_tables_are_fitted_to_another_image_size(size):
    model = classifier(size)
    transfer_trunk(model, pretrained(), "run", source_grid=(4, 4))
    height, width = (size, size) if isinstance(size, int) else size
    assert model(paddle.randn([1, 3, height, width])).shape == [1, 5]


def test_what_does_not_fit_is_listed():
    with pytest.raises(CheckpointError, match=r"run: not a trunk .*of another shape \(.* instead of"):
        transfer_trunk(classifier(width=24, num_heads=2), pretrained(), "run", source_grid=(4, 4))
    with pytest.raises(CheckpointError, match=r"left over \(blocks.1"):
        transfer_trunk(classifier(depth=1), pretrained(), "run", source_grid=(4, 4))
    with pytest.raises(CheckpointError, match=r"missing \(blocks.0.gamma_1"):
        transfer_trunk(classifier(init_values=0.1), pretrained(), "run", source_grid=(4, 4))
    with pytest.raises(CheckpointError, match="a grid of 7 x 7 patches has 172"):
        transfer_trunk(classifier(), pretrained(), "run", source_grid=(7, 7))


def test_impossible_classifiers_are_named():
    with pytest.raises(ConfigError, match="num_classes is 1"):
        classifier(num_classes=1)
    with pytest.raises(ConfigError, match="expected 'mean' or 'cls'"):
        classifier(pooling="max")
