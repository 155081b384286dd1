# SPDX-License-Identifier: Apache-2.0
"""The kind of model `classifier` (entry point `beitv2.kinds`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beitv2_core.weights.architecture import ShapeReader, norm_of, read_trunk
from beitv2_core.weights.kind import IMAGE_FORMATS, Kind


def _read(source: ShapeReader) -> dict[str, Any]:
    return {**read_trunk(source), "num_classes": source.shape("head.bias")[0],
            "pooling": "mean" if norm_of(source) == "pool" else "cls"}


def _build(architecture: Mapping[str, Any]) -> Any:
    from beitv2_cls.classifier import BEiTClassifier

    return BEiTClassifier(**architecture)


def _outputs(model: Any, inputs: list[Any]) -> dict[str, Any]:
    return {"logits": model(inputs[0])}


CLASSIFIER = Kind(
    name="classifier", package="beitv2-cls", marks=("head.weight", "cls_token", "blocks.0.attn.qkv.weight"), read=_read,
    build=_build, outputs=_outputs, backbone="", formats=IMAGE_FORMATS, run="finetune",
    made_by="beitv2 finetune CONFIG")
