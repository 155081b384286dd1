# SPDX-License-Identifier: Apache-2.0
"""A keyword of the trunk is known in every place that lists it: a new one cannot be forgotten."""

from __future__ import annotations

import inspect

from beitv2_cls.config import TRUNK
from beitv2_core.assembly.models import trunk_options
from beitv2_core.assembly.trunk import _OPTIONS
from beitv2_core.config.sections import TrunkConfig
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.weights.architecture import TRUNK_SETTINGS, ShapeReader, read_trunk

KEYWORDS = set(inspect.signature(BEiTBackbone.__init__).parameters) - {"self"}
#: what decides no tensor and no output in eval mode, or is told by the names of the tensors (norm)
NOT_STORED = {"drop_rate", "attn_drop_rate", "drop_path", "recompute", "init", "norm"}
#: what the kind of run decides, not the settings of its trunk
OF_THE_RUN = {"in_chans", "use_mask_token", "norm", "recompute", "init", "attn_head_dim"}


def test_an_architecture_holds_every_keyword_that_decides_an_output():
    assert set(TRUNK_SETTINGS) == KEYWORDS - NOT_STORED


def test_what_weights_do_not_tell_of_a_keyword_is_its_default():
    """So a stored architecture that lacks a keyword is the trunk as it was before the keyword."""
    trunk = BEiTBackbone(image_size=32, patch_size=16, width=8, depth=1, num_heads=2)
    found = read_trunk(ShapeReader(trunk.state_dict(), grid=(2, 2)))
    assert list(found) == list(TRUNK_SETTINGS)
    defaults = {name: one.default for name, one in inspect.signature(BEiTBackbone.__init__).parameters.items()}
    sizes = {"image_size", "patch_size", "width", "depth", "num_heads"}
    assert {name: found[name] for name in found if name not in sizes} == {
        name: defaults[name] for name in found if name not in sizes}


def test_who_starts_from_a_trunk_takes_every_setting_of_it():
    assert set(_OPTIONS) == set(TRUNK_SETTINGS) - {"image_size", "in_chans", "use_mask_token"}  # of images and run


def test_the_settings_of_a_run_give_every_keyword():
    assert set(trunk_options(TrunkConfig(size="base"), image_size=32, patch_size=16)) == KEYWORDS - OF_THE_RUN


def test_every_trunk_setting_is_taken_over_by_a_classifier():
    rates = {"drop_rate", "attn_drop_rate", "drop_path", "size"}  # of this training; a name for width, depth, heads
    assert set(TrunkConfig.model_fields) - rates <= TRUNK
