# SPDX-License-Identifier: Apache-2.0
"""The segmentation model of a converted file (entry point `beitv2.kinds`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.segmentor import BEiTv2UPerNet


def build(architecture: Mapping[str, Any]) -> BEiTv2UPerNet:
    """The segmentor of an architecture that `beitv2_core.weights.architecture` describes, freshly initialised."""
    rest = {name: value for name, value in architecture.items()
            if name not in ("backbone", "num_classes", "out_indices")}
    trunk = {**architecture["backbone"]}
    in_chans = trunk.pop("in_chans")
    backbone = BEiTv2(out_indices=architecture["out_indices"], in_channels=in_chans, **trunk)
    return BEiTv2UPerNet(architecture["num_classes"], backbone, **rest)
