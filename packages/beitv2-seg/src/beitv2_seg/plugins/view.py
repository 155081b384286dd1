# SPDX-License-Identifier: Apache-2.0
"""The view of segmentation runs in `beitv2 serve`: a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from beitv2_core.exported_model import Exported
from beitv2_core.serve.results import LabelMapResult, label_map_result
from beitv2_core.serve.views import View
from beitv2_seg.assembly import image_transforms, load_segmentor
from beitv2_seg.config import TestConfig
from beitv2_seg.reading.label_map import exported_transforms
from beitv2_seg.reading.predict import class_colours, predict_image


def segmentor_view(run: str) -> View:
    """The classes of an image's pixels, read as the run's test_config says (entry point `beitv2.views`).

    Raises CheckpointError for a run of another kind.
    """
    model, config, names = load_segmentor(run)
    return _view(model, image_transforms(config), config.test_config, names)


def exported_view(model: Exported) -> View:
    """The same of an exported segmenter, read as it was exported (entry point `beitv2.views`)."""
    known = model.description
    test = TestConfig(**(known.reading or {}).get("test_config", {}))
    return _view(model, exported_transforms(model), test, known.classes or ())


def _view(model: Any, transforms: Sequence[Any], test: TestConfig, names: Sequence[str]) -> View:
    colours = class_colours(len(names))

    def show(image: Image.Image) -> LabelMapResult:
        labels = predict_image(model, np.asarray(image), transforms, test)
        return label_map_result(image, labels, names, colours=colours)

    return View("segmentation", "Segmentation", f"A class out of {len(names)} for every pixel.", show, upright=True)
