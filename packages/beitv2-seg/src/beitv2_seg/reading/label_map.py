# SPDX-License-Identifier: Apache-2.0
"""From an image to its label map, as `val_dataset` and `test_config` say, by a live model or an exported one.

Importing this costs no Paddle, and an exported ONNX model needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from beitv2_core.errors import ConfigError
from beitv2_core.exported_model import Exported
from beitv2_seg.config import TestConfig
from beitv2_seg.data import transforms
from beitv2_seg.reading.exported_segmenter import ExportedSegmenter
from beitv2_seg.reading.windows import Segmenter, Windows, default_windows, predict_labels

Data = dict[str, Any]


def predict_label_map(model: Any, data: Sequence[Data], test: TestConfig, *, window_batch: int = 4) -> np.ndarray:
    """Predicted classes, int32 at the image's own size, by a live or an exported model.

    data: the image at every scale, see `inputs.multi_scale_inputs`; window_batch: sliding windows computed together.
    Raises ConfigError for transforms that cannot be undone.
    Departs: without `is_slide`, an image of another size than the position tables is read by windows of their size,
    two thirds apart (mmsegmentation's whole-image mode fails there).
    """
    info = data[0].get("trans_info") or []
    height, width = info[0][1] if info else data[0]["img"].shape[-2:]
    if any(step[0] != "resize" for step in info):
        raise ConfigError(f"val_dataset.transforms: {[step[0] for step in info]} cannot be undone; only resizing can. "
                          "Leave padding out: smaller images are padded by the sliding windows themselves.")
    images = [np.asarray(one["img"], dtype=np.float32)[None] for one in data]
    segmenter: Segmenter
    if isinstance(model, Exported):
        segmenter, inputs, tables = ExportedSegmenter(model), images, model.image_size
        crop: Optional[tuple[int, int]] = tables  # an exported model has one size of windows
    else:
        import paddle

        from beitv2_seg.reading.paddle_segmenter import PaddleSegmenter

        segmenter, inputs = PaddleSegmenter(model), [paddle.to_tensor(image) for image in images]
        tables, crop = tuple(model.backbone.image_size), _height_first(test.crop_size)
    windows, stride = None, _height_first(test.stride)
    if test.is_slide and crop and stride:
        windows = Windows(crop, stride, window_batch, test.window_weights)
    elif any(image.shape[2:] != tables for image in images):
        windows = default_windows(tables, window_batch, test.window_weights)
    return predict_labels(segmenter, inputs, size=(int(height), int(width)), flips=test.flips, windows=windows)


def _height_first(size: Optional[tuple[int, int]]) -> Optional[tuple[int, int]]:
    """(height, width) of a size PaddleSeg writes (width, height)."""
    return None if size is None else (size[1], size[0])


def exported_transforms(model: Exported) -> list[Any]:
    """The transforms an exported segmenter's images go through, as it was exported.

    Raises ConfigError for one of PaddleSeg's own, which cannot run without it.
    """
    return built_transforms((model.description.reading or {}).get("transforms", []), str(model.folder))


def built_transforms(steps: Sequence[Data], source: str) -> list[Any]:
    """Our transforms of these settings; ConfigError naming the source for one of PaddleSeg's own."""
    found = []
    for i, step in enumerate(steps):
        kind = getattr(transforms, step.get("type", ""), None)
        if kind is None:
            raise ConfigError(f"{source}: transforms[{i}] is {step.get('type')!r}, PaddleSeg's own; only ours run "
                              "without it. Predict with the run instead.")
        found.append(kind(**{key: value for key, value in step.items() if key != "type"}))
    return found
