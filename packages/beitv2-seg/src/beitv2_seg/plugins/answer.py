# SPDX-License-Identifier: Apache-2.0
"""What a segmentor says of images when `beitv2_core.load` made it callable (entry point `beitv2.answers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beitv2_core.inference.answers import Answer
from beitv2_seg.config import SegmentConfig, TestConfig
from beitv2_seg.reading.label_map import built_transforms, exported_transforms
from beitv2_seg.reading.predict import predict_image


class LabelMaps(NamedTuple):
    """labels: a map int32 (height, width) of every image in its own size; classes: names by number."""

    labels: list[np.ndarray]
    classes: list[str]


def segmentation_answer(loaded: Any, kept: Mapping[str, Any]) -> Answer:
    """Read as the run's test_config and val_dataset say, or as a saved folder keeps it.

    Of lone weights, whose file does not tell: mean and std only, large images by windows.
    """
    found = dict(kept) or _of_run(loaded.source)
    test, steps = TestConfig(**found["test_config"]), built_transforms(found["transforms"], loaded.source)
    classes = found.get("classes") or loaded.classes or [str(number) for number in range(loaded.model.num_classes)]
    return _answer(loaded, steps, test, classes, found)


def exported_answer(loaded: Any, kept: Mapping[str, Any]) -> Answer:
    """Read as it was exported."""
    known = loaded.model.description
    test = TestConfig(**(known.reading or {}).get("test_config", {}))
    return _answer(loaded, exported_transforms(loaded.model), test, list(known.classes or ()), {})


def _answer(loaded: Any, steps: Sequence[Any], test: TestConfig, classes: Sequence[str],
            keep: dict[str, Any]) -> Answer:
    def answer(images: Sequence[Any]) -> LabelMaps:
        pixels = (np.asarray(loaded.open(image)) for image in images)
        return LabelMaps([predict_image(loaded.model, one, steps, test) for one in pixels], list(classes))

    return Answer(answer, keep)


def _of_run(source: str) -> dict[str, Any]:
    from beitv2_core.assembly.loaded_weights import checkpoint_folder
    from beitv2_core.assembly.restore import read_config
    from beitv2_seg.assembly import class_names

    config = read_config(source) if checkpoint_folder(Path(source)) is not None else None
    if not isinstance(config, SegmentConfig):
        return {"test_config": {}, "transforms": [{"type": "BEiTv2Normalize"}]}
    return {"test_config": config.test_config.model_dump(mode="json"), "classes": class_names(config),
            "transforms": config.val_dataset.options().get("transforms", [])}
