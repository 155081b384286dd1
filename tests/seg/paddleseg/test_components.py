# SPDX-License-Identifier: Apache-2.0
"""What a YAML can name is found, built, and refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from beitv2_core.errors import ConfigError
from beitv2_seg.data.digit_scenes import BEiTv2DigitScenes
from beitv2_seg.model.segmentor import BEiTv2UPerNet
from beitv2_seg.paddleseg.components import argument_names, build_component


def test_nested_sections_are_built_and_backbone_keywords_are_known_through_base_classes():
    spec = {"type": "BEiTv2UPerNet", "num_classes": 3, "channels": 4, "backbone": {
        "type": "BEiTv2", "width": 12, "depth": 4, "num_heads": 2, "image_size": 32, "patch_size": 8,
        "qkv_bias": False}}
    assert isinstance(build_component(spec, "model"), BEiTv2UPerNet)
    spec["backbone"]["qkv_bia"] = True
    with pytest.raises(ConfigError, match=r"model.backbone.qkv_bia: unknown key. Did you mean 'qkv_bias'\?"):
        build_component(spec, "model")


@pytest.mark.parametrize(("spec", "message"), [
    ({"num_classes": 3}, "model: type is missing"),
    ({"type": "BEiTv2UPerNet", "num_classes": 3}, "model.backbone: required by BEiTv2UPerNet"),
    ({"type": "Nothing"}, "model.type: 'Nothing' is no known component"),
])
def test_incomplete_sections_are_named(spec, message):
    with pytest.raises(ConfigError, match=message):
        build_component(spec, "model")


def test_a_component_that_takes_anything_is_not_checked():
    class Free:
        def __init__(self, a, **rest):
            self.a = a

    assert argument_names(Free) is None


def test_drawn_scenes_hold_a_class_for_every_pixel_and_differ_between_the_parts():
    sets = {mode: BEiTv2DigitScenes([], mode=mode, size=4, image_size=64) for mode in ("train", "val")}
    items = {mode: data[1] for mode, data in sets.items()}
    assert items["train"]["img"].shape == (3, 64, 64)
    assert items["train"]["label"].shape == (64, 64) and items["val"]["label"].shape == (1, 64, 64)
    labels = np.concatenate([data[i]["label"].reshape(-1) for data in sets.values() for i in range(4)])
    assert labels.max() <= 10 and (labels == 0).any() and (labels > 0).any()
    assert not np.array_equal(items["train"]["img"], items["val"]["img"])
    with pytest.raises(ConfigError, match="mode is 'test'"):
        BEiTv2DigitScenes([], mode="test")
