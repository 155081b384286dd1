# SPDX-License-Identifier: Apache-2.0
"""The kind of model `classifier` (entry point `beitv2.kinds`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from beitv2_core.weights.architecture import ShapeReader, norm_of, read_trunk
from beitv2_core.weights.kind import IMAGE_FORMATS, CardFacts, DataName, Kind, named_data


def _read(source: ShapeReader) -> dict[str, Any]:
    return {**read_trunk(source), "num_classes": source.shape("head.bias")[0],
            "pooling": "mean" if norm_of(source) == "pool" else "cls"}


def _build(architecture: Mapping[str, Any]) -> Any:
    from beitv2_cls.classifier import BEiTClassifier

    return BEiTClassifier(**architecture)


def _outputs(model: Any, inputs: list[Any]) -> dict[str, Any]:
    return {"logits": model(inputs[0])}


def _validation(config: Mapping[str, Any]) -> Optional[DataName]:
    """The validation images of a run's settings; drawn ones have a test split of their own."""
    check, data = config.get("validation") or {}, config.get("data") or {}
    if check.get("root") is not None:
        return named_data(data.get("dataset"), check["root"])
    return named_data(data.get("dataset"), None, check.get("size")) if data.get("root") is None else None


CLASSIFIER = Kind(
    name="classifier", package="beitv2-cls", marks=("head.weight", "cls_token", "blocks.0.attn.qkv.weight"), read=_read,
    build=_build, outputs=_outputs, backbone="", formats=IMAGE_FORMATS, run="finetune",
    made_by="beitv2 finetune CONFIG", card=CardFacts(
        what="An image classifier: a vision transformer of BEiT v2 (arXiv 2208.06366), trained with labels.",
        limits=("It gives one of the classes it was trained on for every image, whatever the image shows.",),
        tag="image-classification", measured_on=_validation, origins={"pretrained.weights": "Weights at the start"},
        metrics={"val_acc1": ("accuracy", "top-1 accuracy"), "val_acc5": ("accuracy", "top-5 accuracy")}))
