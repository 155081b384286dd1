# SPDX-License-Identifier: Apache-2.0
"""Views of a model's features: its patches as colours and similarities, and the nearest images of a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Callable, Optional

import numpy as np
from PIL import Image

from ..data import ImageFiles, Reading
from ..errors import DataError
from ..viz.canvas import as_images
from .results import FeaturesResult, Neighbour, NeighboursResult, features_result, image_url
from .views import View

log = logging.getLogger("beitv2_core")
#: images in an answer, and pixels of their longest side
NEIGHBOURS, SIDE = 12, 160


def features_view(model: Any) -> View:
    """The view of a `LoadedModel` with patch features; of an exported one without attention."""
    rows, columns = model.grid

    def show(image: Image.Image) -> FeaturesResult:
        images = model.preprocess(image)
        features = model.features(images, what="patches")[0]
        attention = None if model.exported else model.attention(images)[0]
        return features_result(_seen(images), features.reshape(rows, columns, -1), attention)

    return View("features", "Features", f"The model turns the image into {rows} x {columns} patches of features. "
                "Patches of similar colours have similar features.", show, model.reading.upright)


def neighbours_view(model: Any, file: Any, search: Callable[..., Sequence[Any]]) -> View:
    """The view of a file of features: which of its images are nearest to an image.

    model: the `LoadedModel` that made the features; file: `Embeddings`; search: (file, model, images, count=) -> what
    `inference.search.search` gives.
    """
    paths = [os.path.join(str(file.meta.get("folder", "")), path) for path in file.paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])

    def show(image: Image.Image) -> NeighboursResult:
        images = model.preprocess(image)
        found = search(file, model, images, count=NEIGHBOURS)
        return NeighboursResult(seen=image_url(_seen(images)), images=len(paths), neighbours=[
            Neighbour(name=os.path.relpath(paths[one.number], folder), similarity=min(max(one.cosine, -1.0), 1.0),
                      image=_small(file.place(one.number), model.reading)) for one in found])

    return View("neighbours", "Nearest images", f"Those of {len(paths):,} images whose features are most similar to "
                "your image's (cosine).", show, model.reading.upright)


def _seen(images: np.ndarray) -> Image.Image:
    return Image.fromarray(as_images(images, "what the model saw")[0])


def _small(path: str, reading: Reading) -> Optional[str]:
    """A small copy of an image file; None where it cannot be read, which is logged."""
    try:
        image = ImageFiles([path], reading).load(0).image
    except DataError as error:
        log.warning("%s", error)
        return None
    image.thumbnail((SIDE, SIDE))
    return image_url(image)
