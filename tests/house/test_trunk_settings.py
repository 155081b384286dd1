# SPDX-License-Identifier: Apache-2.0
"""A keyword of the trunk is known in every place that lists it: a new one cannot be forgotten."""

from __future__ import annotations

import inspect

from beitv2_cls.config import TRUNK
from beitv2_core.assembly.models import trunk_options
from beitv2_core.assembly.trunk import _OPTIONS
from beitv2_core.config.sections import TrunkConfig
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.weights.architecture import TRUNK_SETTINGS

KEYWORDS = set(inspect.signature(BEiTBackbone.__init__).parameters) - {"self"}
#: what decides no tensor and no output in eval mode, or is told by the names of the tensors (norm)
NOT_STORED = {"drop_rate", "attn_drop_rate", "drop_path", "recompute", "init", "norm"}
#: what the kind of run decides, not the settings of its trunk
OF_THE_RUN = {"in_chans", "use_mask_token", "norm", "recompute", "init", "attn_head_dim"}


def test_an_architecture_holds_every_keyword_that_decides_an_output():
    assert set(TRUNK_SETTINGS) == KEYWORDS - NOT_STORED


def test_who_starts_from_a_trunk_takes_every_setting_of_it():
    assert set(_OPTIONS) == set(TRUNK_SETTINGS) - {"image_size", "in_chans", "use_mask_token"}  # of images and run


def test_the_settings_of_a_run_give_every_keyword():
    assert set(trunk_options(TrunkConfig(size="base"), image_size=32, patch_size=16)) == KEYWORDS - OF_THE_RUN


def test_every_trunk_setting_is_taken_over_by_a_classifier():
    rates = {"drop_rate", "attn_drop_rate", "drop_path", "size"}  # of this training; a name for width, depth, heads
    assert set(TrunkConfig.model_fields) - rates <= TRUNK
