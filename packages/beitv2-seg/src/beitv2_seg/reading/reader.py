# SPDX-License-Identifier: Apache-2.0
"""From an image of any size to a class for every pixel, by a live segmentor or an exported one.

Importing this costs no Paddle, and an exported ONNX model needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from beitv2_core.errors import ConfigError
from beitv2_core.exported_model import Exported
from beitv2_seg.config import TestConfig
from beitv2_seg.data import transforms
from beitv2_seg.data.transforms import BEiTv2Resize

Data = dict[str, Any]


def readings(read: Callable[[], Data], pipeline: Any, scales: Sequence[float]) -> list[Data]:
    """The image `read()` gives, once for every scale: by the `BEiTv2Resize` in `pipeline`, from the original.

    Raises ConfigError where there is none and other scales than 1 are asked for.
    Source: mmsegmentation 0.11, MultiScaleFlipAug with img_ratios (PaddleSeg enlarges the resized image instead).
    """
    steps = getattr(pipeline, "transforms", pipeline)
    resizes = [step for step in steps or () if isinstance(step, BEiTv2Resize)]
    if not resizes and tuple(scales) != (1.0,):
        raise ConfigError(f"test_config.scales: {list(scales)}, but val_dataset.transforms has no BEiTv2Resize, which "
                          "reads an image at several scales. Add it, or leave aug_eval out.")
    ratios = [resize.ratio for resize in resizes]
    found = []
    try:
        for scale in scales:
            for resize, ratio in zip(resizes, ratios):
                resize.ratio = ratio * scale
            found.append(read())
    finally:
        for resize, ratio in zip(resizes, ratios):
            resize.ratio = ratio
    return found


def labels_of(model: Any, data: Sequence[Data], test: TestConfig, *, at_once: int = 4) -> np.ndarray:
    """Predicted classes, int32 at the image's own size, from its `readings`, by a live or an exported segmenter.

    at_once: sliding windows computed together.  Raises ConfigError for transforms that cannot be undone.
    Departs: without `is_slide`, an image of another size than the position tables is read by windows of their size,
    two thirds apart (mmsegmentation's whole-image mode fails there).
    """
    info = data[0].get("trans_info") or []
    size = tuple(int(side) for side in info[0][1]) if info else tuple(data[0]["img"].shape[-2:])
    if any(step[0] != "resize" for step in info):
        raise ConfigError(f"val_dataset.transforms: {[step[0] for step in info]} cannot be undone; only resizing can. "
                          "Leave padding out: smaller images are padded by the sliding windows themselves.")
    images = [np.asarray(reading["img"], dtype=np.float32) for reading in data]
    crop, stride = _height_first(test.crop_size), _height_first(test.stride)
    if isinstance(model, Exported):
        from beitv2_seg.reading.deployed import predict_labels as predict_exported

        flips = [tuple(axis - 1 for axis in flip) for flip in test.flips]  # no batch axis there
        return predict_exported(model, images, size=(size[0], size[1]), flips=flips,
                                stride=stride if test.is_slide else None, batch_size=at_once)
    import paddle

    from beitv2_seg.reading.inference import Windows, predict_labels

    tables = tuple(model.backbone.image_size)
    windows = None
    if test.is_slide and crop and stride:
        windows = Windows(crop, stride, at_once)
    elif any(image.shape[1:] != tables for image in images):
        windows = Windows(tables, (tables[0] * 2 // 3, tables[1] * 2 // 3), at_once)
    with paddle.no_grad():
        return predict_labels(model, [paddle.to_tensor(image[None]) for image in images], size=(size[0], size[1]),
                              flips=test.flips, windows=windows)


def _height_first(size: tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of a size PaddleSeg writes (width, height)."""
    return None if size is None else (size[1], size[0])


def exported_transforms(model: Exported) -> list[Any]:
    """The transforms an exported segmenter's images go through, as it was exported.

    Raises ConfigError for one of PaddleSeg's own, which cannot run without it.
    """
    steps = (model.description.reading or {}).get("transforms", [])
    found = []
    for i, step in enumerate(steps):
        kind = getattr(transforms, step.get("type", ""), None)
        if kind is None:
            raise ConfigError(f"{model.folder}: transforms[{i}] is {step.get('type')!r}, PaddleSeg's own; only ours "
                              "run without it. Predict with the run instead.")
        found.append(kind(**{key: value for key, value in step.items() if key != "type"}))
    return found
