# SPDX-License-Identifier: Apache-2.0
"""Views of a model's features: its patches as colours and similarities, and the nearest images of a file."""

from __future__ import annotations

from typing import Any

from PIL import Image

from ..viz.canvas import as_images
from .results import FeaturesResult, features_result
from .views import View


def features_view(model: Any) -> View:
    """The view of a `LoadedModel` with patch features; of an exported one without attention."""
    rows, columns = model.grid

    def show(image: Image.Image) -> FeaturesResult:
        images = model.preprocess(image)
        features = model.features(images, what="patches")[0]
        attention = None if model.exported else model.attention(images)[0]
        return features_result(Image.fromarray(as_images(images, "features_view")[0]),
                               features.reshape(rows, columns, -1), attention)

    return View("features", "Features", f"The model turns the image into {rows} x {columns} patches of features. "
                "Patches of similar colours have similar features.", show, model.reading.upright)
