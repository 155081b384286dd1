# SPDX-License-Identifier: Apache-2.0
"""Settings: PaddleSeg's YAML files and flags, read, checked, and translated into core's. Costs no Paddle to import."""

from beitv2_seg.config.load import (
    PACKAGED,
    apply_opts,
    find_config,
    read_config_file,
    refuse_for_paddleseg,
)
from beitv2_seg.config.schema import (
    IGNORED_KEYS,
    Component,
    LossConfig,
    RunSection,
    SegmentConfig,
    SegmentorConfig,
    TestConfig,
)

__all__ = [
    "IGNORED_KEYS",
    "PACKAGED",
    "Component",
    "LossConfig",
    "RunSection",
    "SegmentConfig",
    "SegmentorConfig",
    "TestConfig",
    "apply_opts",
    "find_config",
    "read_config_file",
    "refuse_for_paddleseg",
]
