# SPDX-License-Identifier: Apache-2.0
"""The backbone's settings that a pretrained model knows already: taken from it where the YAML is silent."""

from __future__ import annotations

from typing import Any

from beitv2_core.assembly.found import read_model
from beitv2_core.config import parse_config
from beitv2_core.config.sections import pair
from beitv2_core.errors import ConfigError
from beitv2_core.models.backbone import SIZES
from beitv2_seg.config import SegmentConfig

#: settings that must be the pretrained model's
TAKEN = ("width", "depth", "num_heads", "patch_size", "mlp_ratio", "qkv_bias")


def with_pretrained_settings(config: SegmentConfig) -> SegmentConfig:
    """The settings with what `model.backbone.pretrained` decides written out: width, depth, heads, patch, layer scale,
    position terms; the size of the images, which is the crop's, or else the pretrained model's; UPerNet's channels.

    Raises ConfigError for a setting that contradicts the pretrained model, naming both values.
    """
    backbone = config.model.backbone
    options = backbone.options()
    source = options.get("pretrained")
    if backbone.type != "BEiTv2" or source is None:
        return config
    found = read_model(source).architecture if "://" not in source else {}
    trunk = _trunk(found)
    if not trunk:
        return config  # loading it says what it is
    named = options.get("size")
    sizes = SIZES.get(named, {}) if named is not None else {}
    given = {**sizes, **options}
    filled: dict[str, Any] = {}
    for key in TAKEN:
        if key not in given:
            filled[key] = trunk[key]
        elif given[key] is not None and _plain(given[key]) != trunk[key]:
            where = "size" if key in sizes and key not in options else key
            raise ConfigError(f"model.backbone.{where}: {options[where]!r}"
                              f"{f' ({key} {given[key]})' if where != key else ''}, but {source} (pretrained) has {key} "
                              f"{trunk[key]}. Leave model.backbone.{where} out: it is taken from there.")
    scaled = trunk["init_values"] is not None
    if "init_values" not in options:
        filled["init_values"] = trunk["init_values"]
    elif (options["init_values"] is not None) != scaled:
        raise ConfigError(f"model.backbone.init_values: {options['init_values']}, but {source} (pretrained) has "
                          f"{'' if scaled else 'no '}layer scale. Leave it out: it is taken from there.")
    filled.update({key: value for key, value in (("use_abs_pos_emb", trunk["use_abs_pos_emb"]),
                                                 ("use_rel_pos_bias", trunk["relative"])) if key not in options})
    if "image_size" not in options:
        filled["image_size"] = _crop_size(config) or trunk["image_size"]
    tree = config.resolved()
    tree["model"]["backbone"].update(filled)
    tree["model"].setdefault("channels", trunk["width"])
    return parse_config(tree, SegmentConfig, source=f"model.backbone.pretrained ({source})")


def _trunk(architecture: dict[str, Any]) -> dict[str, Any]:
    if "width" not in architecture:
        return {}
    patch = architecture["patch_size"]
    return {**architecture, "patch_size": _plain(patch), "image_size": list(pair(architecture["image_size"])),
            "relative": architecture["use_rel_pos_bias"] or architecture["use_shared_rel_pos_bias"]}


def _plain(value: Any) -> Any:
    """A square size as one number."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


def _crop_size(config: SegmentConfig) -> list[int] | None:
    """(height, width) of the training crops, which the position tables must be made for."""
    for transform in config.train_dataset.options().get("transforms", []):
        if transform.get("type") in ("BEiTv2RandomCrop", "BEiTv2Pad"):
            size = transform.get("crop_size", transform.get("size"))
            return None if size is None else [int(side) for side in size]
    return None
