# SPDX-License-Identifier: Apache-2.0
"""The view of segmentation runs in `beitv2 serve`: a class for every pixel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beitv2_core.serve.results import LabelMapResult, label_map_result
from beitv2_core.serve.views import View
from beitv2_seg.assembly import image_transforms, load_segmentor
from beitv2_seg.reading.predict import class_colours, predict_image


def segmentor_view(run: str) -> View:
    """The classes of an image's pixels, read as the run's test_config says (entry point `beitv2.views`).

    Raises CheckpointError for a run of another kind.
    """
    model, config, names = load_segmentor(run)
    transforms, colours = image_transforms(config), class_colours(len(names))

    def show(image: Image.Image) -> LabelMapResult:
        labels = predict_image(model, np.asarray(image), transforms, config.test_config)
        return label_map_result(image, labels, names, colours=colours)

    return View("segmentation", "Segmentation", f"A class out of {len(names)} for every pixel.", show, upright=True)
