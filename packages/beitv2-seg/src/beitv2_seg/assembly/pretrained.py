# SPDX-License-Identifier: Apache-2.0
"""The backbone's settings that a pretrained model knows already: taken from it where the YAML is silent."""

from __future__ import annotations

from collections.abc import Mapping

from beitv2_core.assembly.kinds import kinds_trained_by
from beitv2_core.assembly.loaded_weights import Hints
from beitv2_core.assembly.trunk import architecture_of
from beitv2_core.config import parse_config
from beitv2_seg.config import SegmentConfig
from beitv2_seg.paddleseg.components import argument_names, find_component


def with_pretrained_settings(config: SegmentConfig) -> SegmentConfig:
    """The settings with what `model.backbone.pretrained` decides written out: width, depth, heads, patch, layer scale,
    position terms; the size of the images, which is the crop's, or else the pretrained model's; the channels of
    a head that has them, as UPerNet.

    Raises ConfigError for a setting that contradicts the pretrained model, naming both values.
    """
    options = config.model.backbone.options()
    source = options.get("pretrained")
    if config.model.backbone.type != "BEiTv2" or source is None:
        return config
    trunk = architecture_of(source, sha256=options.get("pretrained_sha256"),
                            hints=Hints(ema=options.get("pretrained_ema")))
    if trunk.kind in kinds_trained_by("segment"):
        return config  # loading it says what is expected
    made_for = trunk.check_image_size(options.get("pretrained_image_size"), "model.backbone.pretrained_image_size")
    filled = trunk.fill_options(options, "model.backbone.")
    filled.setdefault("image_size", _crop_size(config) or list(made_for))
    tree = config.resolved()
    tree["model"]["backbone"] = {"type": config.model.backbone.type, **filled}
    if "channels" in (argument_names(find_component(config.model.type, "model")) or ()):
        tree["model"].setdefault("channels", trunk.options["width"])
    return parse_config(tree, SegmentConfig, source=f"model.backbone.pretrained: {source}")


def _crop_size(config: SegmentConfig) -> list[int] | None:
    """(height, width) of the training crops, which the position tables must be made for."""
    for transform in config.train_dataset.options().get("transforms", []):
        if isinstance(transform, Mapping) and transform.get("type") in ("BEiTv2RandomCrop", "BEiTv2Pad"):
            size = transform.get("crop_size", transform.get("size"))
            return None if size is None else [int(side) for side in size]
    return None
