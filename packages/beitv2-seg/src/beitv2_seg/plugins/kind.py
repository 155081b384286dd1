# SPDX-License-Identifier: Apache-2.0
"""The kind of model `segmentation`: UPerNet on a BEiT v2 trunk (entry point `beitv2.kinds`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Optional

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.architecture import TRUNK_SETTINGS, ShapeReader, read_trunk
from beitv2_core.weights.kind import (
    NUM_HEADS,
    CardFacts,
    DataName,
    Kind,
    UntoldValue,
    named_data,
    whole_numbers,
)
from beitv2_seg.model.taps import TAPS, default_taps

POOL_SCALES = (1, 2, 3, 6)


def read_taps(source: ShapeReader, trunk: Mapping[str, Any]) -> Optional[list[int]]:
    """The tapped blocks of a segmenter on this trunk: as told, of the published models, or None: not known.

    Raises CheckpointError for blocks the trunk has not.
    """
    depth = trunk["depth"]
    usual: Optional[tuple[int, ...]] = None
    if source.is_published(trunk):
        usual = TAPS[depth]
    elif depth == 4:
        usual = (0, 1, 2, 3)  # all, unless one is tapped twice
    elif source.settings is not None:
        usual = default_taps(source.settings.get("size"), depth)
    taps: Optional[list[int]] = source.told("out_indices", usual)
    if taps is not None and (len(taps) != 4 or sorted(taps) != taps or not 0 <= taps[0] <= taps[-1] < depth):
        raise CheckpointError(f"out_indices {taps}: expected four block numbers, none below the one before, of 0 .. "
                              f"{depth - 1}. Correct --set out_indices=...")
    return taps


def build_backbone(trunk: Mapping[str, Any], out_indices: Optional[Sequence[int]]) -> Any:
    """The four-map backbone of a trunk's architecture, without pretrained weights; KeyError for what is no trunk."""
    from beitv2_seg.model.backbone import BEiTv2

    options = {name: trunk[name] for name in TRUNK_SETTINGS if name != "in_chans"}
    return BEiTv2(out_indices=out_indices, in_channels=trunk["in_chans"], **options)


def _read(source: ShapeReader) -> dict[str, Any]:
    trunk = read_trunk(source, "backbone.")
    taps = read_taps(source, trunk)
    branches = source.count("decode_head.psp_modules.")
    scales = source.told("pool_scales", POOL_SCALES if branches == len(POOL_SCALES) else None)
    if scales is not None and len(scales) != branches:
        raise CheckpointError(f"pool_scales {scales}: the weights have {branches} pooling branches. Give {branches} "
                              "numbers by --set pool_scales=...")
    return {"backbone": trunk, "num_classes": source.shape("decode_head.conv_seg.bias")[0],
            "channels": source.shape("decode_head.conv_seg.weight")[1],
            "aux_channels": source.shape("auxiliary_head.conv_seg.weight")[1],
            "pool_scales": scales or [None] * branches, "out_indices": taps}


def _build(architecture: Mapping[str, Any]) -> Any:
    from beitv2_seg.model.segmentor import BEiTv2UPerNet

    rest = {name: value for name, value in architecture.items()
            if name not in ("backbone", "num_classes", "out_indices")}
    backbone = build_backbone(architecture["backbone"], architecture["out_indices"])
    return BEiTv2UPerNet(architecture["num_classes"], backbone, **rest)


def segmentor_outputs(model: Any, inputs: list[Any]) -> dict[str, Any]:
    """The logits (B, C, H, W) of a segmenter, which gives [logits] in eval mode."""
    return {"logits": model(inputs[0])[0]}


#: values that the weights of any segmenter do not tell
UNTOLD = {"num_heads": NUM_HEADS,
          "out_indices": UntoldValue("the four blocks whose outputs make the pyramid (default: those of the published "
                                     "models, for official files of base and large)", "3,5,7,11", whole_numbers,
                                     required=True)}
_POOL_SCALES = UntoldValue("the sizes of the pooled maps (default: 1,2,3,6 where there are four)", "1,2,3,6",
                           partial(whole_numbers, least=1), required=True)
def _images(section: str) -> Callable[[Mapping[str, Any]], Optional[DataName]]:
    """The images of `train_dataset` or `val_dataset` of a run's settings."""
    def named(config: Mapping[str, Any]) -> Optional[DataName]:
        data = config.get(section) or {}
        drawn = data.get("type") == "BEiTv2DigitScenes"
        if not drawn and not data.get("dataset_root"):
            return None
        found = named_data("digit_scenes" if drawn else data.get("type"), data.get("dataset_root"), data.get("size"))
        if found is None or drawn or not data.get("mode"):
            return found
        return found._replace(words=f"{found.words}, split `{data['mode']}`")  # one folder has both

    return named


SEGMENTATION = Kind(
    name="segmentation", package="beitv2-seg",
    marks=("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.weight", "backbone.cls_token"), read=_read,
    build=_build, outputs=segmentor_outputs, trunks=("backbone",), backbone="backbone",
    untold={**UNTOLD, "pool_scales": _POOL_SCALES},
    parts=frozenset(("backbone", "decode_head", "auxiliary_head")), nest="state_dict", run="segment",
    made_by="beitv2 segment train --config CONFIG", card=CardFacts(
        what="A semantic segmentor: UPerNet on a vision transformer of BEiT v2 (arXiv 2208.06366).",
        limits=("It gives every pixel one of the classes it was trained on, whatever the pixel shows.",),
        tag="image-segmentation", tags=("semantic-segmentation", "upernet"), trained_on=_images("train_dataset"),
        measured_on=_images("val_dataset"),
        origins={"model.backbone.pretrained": "Weights of the backbone at the start"},
        metrics={"miou": ("mean_iou", "mIoU"), "macc": ("mean_accuracy", "mAcc"),
                 "aacc": ("overall_accuracy", "aAcc")}))
